"""Believed, actual and optimal accuracy of a vote weighted by trust, against trials and sources.

    python -m benchmarks.voting --output voting.png

Each source is right with its own p ~ Beta(7, 3), and its trust comes from some trials. The table
has the three accuracies, the gap between optimal and believed, and its bound.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mdeq_jax.reasoning.voting import Stability, stability
from mdeq_jax.viz.reasoning import plot_voting

PRIOR = (7.0, 3.0)
TRIALS = (0, 1, 3, 10, 30, 100, 1000)
SOURCES = (1, 3, 5, 7, 9)


def stacked(found: list[Stability]) -> Stability:
    """Return arrays of several results."""
    return jax.tree.map(lambda *values: jnp.stack(values), *found)


def main() -> None:
    """Parse the command line, print the table and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("voting.png"))
    path, key = parser.parse_args().output, jax.random.key(0)
    of_five = jax.jit(lambda trials: stability(PRIOR, trials, 5, key))
    by_trials = stacked([of_five(trials) for trials in TRIALS])
    by_sources = stacked([jax.jit(lambda n=n: stability(PRIOR, 10, n, key))() for n in SOURCES])
    print("sources  trials  believed  actual  optimal    gap  bound")
    rows = [(5, n, by_trials, i) for i, n in enumerate(TRIALS)]
    rows += [(n, 10, by_sources, i) for i, n in enumerate(SOURCES)]
    for sources, trials, found, i in rows:
        believed, actual, optimal, bound = (float(values[i]) for values in found)
        gap = optimal - believed
        print(
            f"{sources:7}  {trials:6}  {believed:8.4f}  {actual:6.4f}  {optimal:7.4f}  {gap:5.3f}  "
            f"{bound:5.3f}"
        )
    plot_voting(np.array(TRIALS), by_trials, np.array(SOURCES), by_sources, path)


if __name__ == "__main__":
    main()
