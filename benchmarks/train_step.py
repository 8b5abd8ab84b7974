"""Training steps on random images: with a solve of all steps, and unrolled as in the warm-up."""

from benchmarks.problems import setting
from benchmarks.timing import milliseconds, report, take_turns
from benchmarks.training import repeatable, training_step


def main(config: str = "cifar10_tiny", batch: int = 32, rounds: int = 5) -> None:
    """Print the time of a step and the number of images per second.

    Args:
      config: name of a file in configs.
      batch: number of images.
      rounds: number of measurements of each step.
    """
    bench = setting(config, batch)
    layers = bench.config.train.num_layers
    functions = {
        "solved": repeatable(*training_step(bench, None)),
        f"unrolled({layers})": repeatable(*training_step(bench, layers)),
    }
    seconds = take_turns(functions, rounds)
    rows = [
        {"step": name, "ms": milliseconds(times), "images/s": 1e3 * batch / milliseconds(times)}
        for name, times in seconds.items()
    ]
    solver = bench.config.solver
    report(
        "train_step",
        rows,
        config=config,
        batch=batch,
        forward_steps=solver.forward.max_steps,
        backward_steps=solver.backward.max_steps,
    )
