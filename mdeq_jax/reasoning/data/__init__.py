"""Problems with their solutions: generators, and readers of the published files."""
