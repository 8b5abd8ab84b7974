"""Run a benchmark by name; it prints a table, then one line of JSON.

    python -m benchmarks.run solver_overhead --config cifar10_large --batch 16
    python -m benchmarks.run train_step --config imagenet_small --batch 4 --rounds 3

All benchmarks except `start_up` and `loader` run on random input and need only jax, flax, optax and
ml_collections (`peers` also jaxopt and optimistix).
"""

import argparse
import importlib
import inspect
import math

from mdeq_jax.runtime.compilation import convolve_on_all_cores
from mdeq_jax.vision.config import config_file

BENCHMARKS = {
    "solver_overhead": "a solve against as many bare evaluations of the cell, and its adjoint",
    "long_history": "Broyden's method with room for more steps than it takes, and under vmap",
    "estimators": "the cost of the gradient by each estimator",
    "train_step": "training steps, solved and unrolled",
    "infer": "inference at several batch sizes",
    "floor": "the least time of a step's evaluations of the cell, and the time it takes",
    "memory": "temporary memory against solver steps and batch",
    "largest_batch": "the largest batch whose step fits on the device, or in --gib",
    "segmentation_memory": "memory of inference and training crops, by solver and its steps",
    "compile_time": "compilation of the training step, without and with the cache",
    "start_up": "from the command to the first training step, cold and warm",
    "explicit": "the model against ResNets at the same input",
    "loader": "ImageNet's training pipeline against tf.data's on the same files",
    "peers": "the solvers alone against jaxopt's and optimistix's",
}


def _config(name: str) -> str:
    try:
        config_file(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return size


def main() -> None:
    """Parse the command line and run."""
    width = max(map(len, BENCHMARKS))
    listed = "\n".join(f"  {name:<{width}}  {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME")
    parser.add_argument("--config", type=_config, help="name of a file in configs, without .py")
    parser.add_argument("--batch", type=_count, help="images")
    parser.add_argument("--rounds", type=_count, help="measurements of each row")
    parser.add_argument("--gib", type=_size, help="memory of the device, for largest_batch")
    options = vars(parser.parse_args())
    name = options.pop("name")
    given = {option: value for option, value in options.items() if value is not None}
    benchmark = importlib.import_module(f"benchmarks.{name}").main
    if unknown := given.keys() - inspect.signature(benchmark).parameters.keys():
        parser.error(f"{name} takes no {', '.join(f'--{option}' for option in sorted(unknown))}")
    convolve_on_all_cores()
    benchmark(**given)


if __name__ == "__main__":
    main()
