"""DEQ-Flow: its encoders, correlation, cell and upsampling, and the import of its checkpoints."""
