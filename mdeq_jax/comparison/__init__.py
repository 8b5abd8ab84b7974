"""One config trained under several settings, measured alike, in one report."""
