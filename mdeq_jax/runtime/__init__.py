"""What a run needs from the machine: several processes, and the compiler's settings."""
