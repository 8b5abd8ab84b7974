"""Mazes of square cells, and the one path through them from start to end.

A maze of size s has n × n cells, n = (s + 1)/2. On the grid of 2n + 1 by 2n + 1 blocks, cell (r, c)
is the block (2r + 1, 2c + 1), and the blocks between are walls or passages. In the picture a block
is 2 × 2 pixels, and one black pixel surrounds all: S = 4n + 4. Walls are black, corridors white,
the start is green, the end red.

Source: Schwarzschild et al., "Datasets for Studying Generalization from Easy to Hard Examples",
arXiv 2108.06011, and its generator, aks2203/easy-to-hard-data.
"""

import functools
import random
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int, UInt8

from mdeq_jax.checks import require_one_of, require_whole
from mdeq_jax.reasoning.data.problems import Problems, Split, draw_distinct

Kind = Literal["depth_first", "prim", "uniform"]

_OPEN, _START, _END = 1, 2, 3
# Colours of a wall, a corridor, the start and the end.
_COLOURS = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]], np.float32)


def generate(
    count: int, size: int, seed: int, kind: Kind = "depth_first", split: Split = "train"
) -> Problems:
    """Return distinct random mazes in the layout of the published files, with their solutions.

    The passages of a maze are a spanning tree of its cells, so exactly one path joins start and
    end, which are two distinct cells drawn uniformly.

    Args:
      count: the number N of mazes.
      size: odd, at least 3; the published sizes are 9 to 37 and 59.
      seed: at least 0; it determines the mazes.
      kind: how the tree grows from the start. "depth_first" goes on from the newest cell that has
        a new neighbour: long corridors, few dead ends; the published mazes are of this kind. "prim"
        goes on from any cell that has a new neighbour: short branches, many dead ends.
        "uniform" draws every spanning tree with the same probability.
      split: "train" or "test"; no maze belongs to both.

    Returns:
      Inputs (N, S, S, 3), 0 or 1, with S = 2·size + 6; targets (N, S, S), 1 on the path, both ends
      included; every pixel that is not black is counted.

    Raises:
      ValueError: an argument is out of range, or there are fewer distinct mazes.

    Source: "uniform" is Wilson, "Generating Random Spanning Trees More Quickly than the Cover
    Time", STOC 1996.

    Examples:
      >>> generate(count=2, size=9, seed=0).inputs.shape
      (2, 24, 24, 3)
    """
    require_whole("size", size, 3)
    if size % 2 == 0:
        raise ValueError(f"size is {size}; it must be odd: {size - 1} or {size + 1}.")
    require_one_of("kind", kind, get_args(Kind))
    draw = functools.partial(_draw, (size + 1) // 2, kind)
    blocks, paths = draw_distinct(draw, count, seed, split)
    return as_problems(_COLOURS[_pixels(blocks)], _pixels(paths))


def to_cells(problems: Problems) -> Problems:
    """Return mazes with one position for each block of 2 × 2 pixels, and without the margin.

    Args:
      problems: mazes of S × S pixels.

    Returns:
      The same mazes on (S/2 − 1)² positions: 121 in place of 576 for size 9.

    Examples:
      >>> to_cells(generate(count=2, size=9, seed=0)).inputs.shape
      (2, 11, 11, 3)
    """
    return Problems(*(field[:, 1:-1:2, 1:-1:2] for field in problems))


def as_problems(inputs: np.ndarray, targets: np.ndarray) -> Problems:
    """Return pictures (N, S, S, 3) and paths (N, S, S), all entries 0 or 1, as problems."""
    return Problems(inputs.astype(np.float32), targets.astype(np.int32), inputs.max(axis=-1) > 0)


def _pixels(blocks: UInt8[np.ndarray, "N b b"]) -> UInt8[np.ndarray, "N S S"]:
    pixels = blocks.repeat(2, axis=1).repeat(2, axis=2)
    return np.pad(pixels, ((0, 0), (1, 1), (1, 1)))


def _draw(n: int, kind: Kind, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks of a maze (0 for a wall) and its path (1 on it)."""
    start, end = rng.sample(range(n * n), 2)
    tree = _uniform_tree(n, start, rng) if kind == "uniform" else _grow(n, start, kind, rng)
    path = [end]
    while path[-1] != start:
        path.append(tree[path[-1]])
    block = _blocks_of_cells(n)
    maze, solution = np.zeros((2, (2 * n + 1) ** 2), np.uint8)
    # The block between two neighbouring cells is the mean of theirs; the start is its own parent.
    maze[(block + block[tree]) // 2] = _OPEN
    maze[block] = _OPEN
    maze[block[start]], maze[block[end]] = _START, _END
    on_path = block[path]
    solution[on_path] = 1
    solution[(on_path[1:] + on_path[:-1]) // 2] = 1
    return maze.reshape(2 * n + 1, -1), solution.reshape(2 * n + 1, -1)


def _grow(n: int, root: int, kind: Kind, rng: random.Random) -> list[int]:
    """Return the parent of each cell in a tree that grows edge by edge from the root.

    The next edge is the newest that leads to a new cell, or with "prim" any that does.
    """
    neighbours = _neighbours(n)
    parents = [-1] * (n * n)
    edges = [(root, root)]
    while edges:
        if kind == "prim":
            place = rng.randrange(len(edges))
            edges[place], edges[-1] = edges[-1], edges[place]
        parent, cell = edges.pop()
        if parents[cell] < 0:
            parents[cell] = parent
            new = [(cell, other) for other in neighbours[cell] if parents[other] < 0]
            rng.shuffle(new)
            edges += new
    return parents


def _uniform_tree(n: int, root: int, rng: random.Random) -> list[int]:
    """Return the parent of each cell in a tree of Wilson's loop-erased random walks."""
    neighbours = _neighbours(n)
    parents = [root] * (n * n)
    in_tree = {root}
    for first in range(n * n):
        cell = first
        while cell not in in_tree:
            parents[cell] = rng.choice(neighbours[cell])
            cell = parents[cell]
        # A cell remembers only the last step that left it, which erases the loops of the walk.
        cell = first
        while cell not in in_tree:
            in_tree.add(cell)
            cell = parents[cell]
    return parents


@functools.cache
def _neighbours(n: int) -> list[list[int]]:
    """Return the neighbours of each of n × n cells, which are numbered row by row."""
    cells = [divmod(cell, n) for cell in range(n * n)]
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return [
        [(r + i) * n + c + j for i, j in steps if 0 <= r + i < n and 0 <= c + j < n]
        for r, c in cells
    ]


@functools.cache
def _blocks_of_cells(n: int) -> Int[np.ndarray, " n*n"]:
    """Return the number of each cell's block among the (2n + 1)² blocks, row by row."""
    odd = 2 * np.arange(n) + 1
    return (odd[:, None] * (2 * n + 1) + odd).ravel()
