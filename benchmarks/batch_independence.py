"""How far, in float32, a sample's result depends on the other samples of the batch.

    python -m benchmarks.batch_independence runs/digits

In exact arithmetic it does not depend on them. In float32 the order of sums may depend on the batch
size, and Broyden's method amplifies rounding: the states then differ by as much as the tolerance
allows.
"""

import argparse
import functools
import json

import jax
import numpy as np

import mdeq_jax as mx
from mdeq_jax.vision import data

IMAGES = 24


def main(checkpoint: str) -> None:
    """Print the differences between separate solves and a batch as one line of JSON."""
    model, variables, config = mx.load(checkpoint)
    images = next(iter(data.eval_batches(config.data)))["image"][:IMAGES]
    images = data.find_dataset(config.data).normalise(images)
    solver = config.solver.forward.build()
    apply = jax.jit(functools.partial(model.apply, solver=solver))
    logits, info = apply(variables, images)
    alone = [apply(variables, images[i : i + 1]) for i in range(IMAGES)]

    def difference(i: int) -> float:
        pairs = [(z[i], z1[0]) for z, z1 in zip(info.z, alone[i][1].z, strict=True)]
        error = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs))
        return float(error / np.sqrt(sum(np.sum(a**2) for a, _ in pairs)))

    differences = [difference(i) for i in range(IMAGES)]
    alone_logits = np.concatenate([logits for logits, _ in alone])
    figures = {
        "tol": solver.tol,
        "state_difference_median": float(np.median(differences)),
        "state_difference_max": max(differences),
        "logit_difference_max": float(np.abs(alone_logits - logits).max()),
        "same_class": bool((alone_logits.argmax(-1) == logits.argmax(-1)).all()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_independence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="DIR", help="a workdir, or a checkpoint in one")
    main(parser.parse_args().checkpoint)
