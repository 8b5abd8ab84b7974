"""What a run needs of the machine: several processes, and the compiler's settings."""
