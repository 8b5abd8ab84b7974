"""PyTorch checkpoints: read without PyTorch, and converted to variables of ours."""
