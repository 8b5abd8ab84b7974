"""Training: state, schedules, losses, metrics, steps, evaluation, and the loop."""
