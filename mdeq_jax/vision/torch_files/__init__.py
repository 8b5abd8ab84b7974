"""PyTorch checkpoints: read without PyTorch, and converted to our variables."""
