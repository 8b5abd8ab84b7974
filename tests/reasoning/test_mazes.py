"""Mazes: their geometry, that they are trees, their solutions, and how the kinds differ."""

import collections

import numpy as np
import pytest

from mdeq_jax.reasoning.data import mazes

KINDS = ("depth_first", "prim", "uniform")
BLACK, WHITE, GREEN, RED = (0, 0, 0), (1, 1, 1), (0, 1, 0), (1, 0, 0)
each_kind = pytest.mark.parametrize("kind", KINDS)


def neighbours(place, free):
    row, column = place
    steps = ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
    return [step for step in steps if free[step]]


def distances(free, start):
    """Steps from the start to each place that it reaches, by breadth-first search."""
    found, queue = {start: 0}, collections.deque([start])
    while queue:
        place = queue.popleft()
        for step in neighbours(place, free):
            if step not in found:
                found[step] = found[place] + 1
                queue.append(step)
    return found


def ends(picture):
    """The places of the start and of the end."""
    return [tuple(np.argwhere((picture == colour).all(-1)).squeeze(0)) for colour in (GREEN, RED)]


def drawn(kind, count=20, size=9, seed=0, **options):
    return mazes.generate(count, size, seed, kind, **options)


@each_kind
def test_the_layout(kind):
    problems = drawn(kind, size=7)
    inputs, targets, counted = problems
    assert inputs.shape == (20, 20, 20, 3)
    assert (inputs.dtype, targets.dtype) == (np.float32, np.int32)
    assert {tuple(p) for p in inputs.reshape(-1, 3)} == {BLACK, WHITE, GREEN, RED}
    # A margin of one pixel, then blocks of 2 × 2 pixels.
    blocks = mazes.to_cells(problems)
    for pixels, block in zip(problems, blocks, strict=True):
        assert block.shape[1:3] == (9, 9)
        tiled = np.zeros_like(pixels)
        tiled[:, 1:-1, 1:-1] = block.repeat(2, 1).repeat(2, 2)
        np.testing.assert_array_equal(tiled, pixels)
    np.testing.assert_array_equal(counted, inputs.max(-1) > 0)
    # Cells are open, corners between them and the rim are walls.
    assert blocks.counted[:, 1::2, 1::2].all()
    assert not blocks.counted[:, ::2, ::2].any()
    assert not blocks.counted[:, [0, -1]].any()
    assert not blocks.counted[:, :, [0, -1]].any()


@each_kind
def test_a_maze_is_a_tree_of_its_cells(kind):
    blocks = mazes.to_cells(drawn(kind, size=11))
    for picture, free in zip(blocks.inputs, blocks.counted, strict=True):
        passages = free[1::2, 2::2].sum() + free[2::2, 1::2].sum()
        assert passages == 6 * 6 - 1
        assert len(distances(free, ends(picture)[0])) == free.sum()


@each_kind
def test_no_direction_is_preferred(kind):
    free = mazes.to_cells(drawn(kind, count=200)).counted
    across, down = free[:, 1::2, 2:-1:2].mean((1, 2)), free[:, 2:-1:2, 1::2].mean((1, 2))
    # The difference is 0 within 4 standard errors.
    assert abs((across - down).mean()) < 4 * (across - down).std() / 200**0.5


@each_kind
def test_the_solution_is_the_shortest_path(kind):
    for picture, path, free in zip(*mazes.to_cells(drawn(kind)), strict=True):
        start, end = ends(picture)
        from_start, from_end = distances(free, start), distances(free, end)
        length = from_start[end]
        # In a tree exactly the places on the path are on the way from start to end.
        on_the_way = {p for p in from_start if from_start[p] + from_end[p] == length}
        assert {tuple(p) for p in np.argwhere(path)} == on_the_way
        assert path.sum() == length + 1


def dead_ends(kind):
    """The share of cells with one passage."""
    free = mazes.to_cells(drawn(kind, count=200, size=13)).counted
    passages = sum(
        np.roll(free, step, axis)[:, 1::2, 1::2].astype(int) for step in (1, -1) for axis in (1, 2)
    )
    return (passages == 1).mean()


def expected_dead_ends(n):
    """The expected share in a uniform spanning tree of n × n cells, by the matrix-tree theorem.

    A tree in which v is a leaf is a tree of the graph without v, and one of v's edges.
    """
    path = np.eye(n, k=1) + np.eye(n, k=-1)
    edges = np.kron(path, np.eye(n)) + np.kron(np.eye(n), path)

    def log_trees(without):
        kept = np.delete(np.delete(edges, without, 0), without, 1)
        return np.linalg.slogdet((np.diag(kept.sum(0)) - kept)[1:, 1:])[1]

    trees = np.array([log_trees([v]) for v in range(n * n)]) - log_trees([])
    return (edges.sum(0) * np.exp(trees)).mean()


def test_the_share_of_dead_ends_tells_the_kinds_apart():
    uniform = expected_dead_ends(7)
    # The share varies by about 0.04 from maze to maze, its mean over 200 mazes by 0.003.
    assert dead_ends("uniform") == pytest.approx(uniform, abs=0.01)
    assert dead_ends("prim") > uniform + 0.02
    assert dead_ends("depth_first") < uniform - 0.15


def test_uniform_draws_each_spanning_tree_alike():
    # 2 × 2 cells have 4 spanning trees: one of the four passages is a wall.
    counts = collections.Counter()
    rng = np.random.default_rng(0)
    for seed in rng.integers(0, 2**31, 40):
        for split in ("train", "test"):
            free = mazes.to_cells(drawn("uniform", 8, 3, int(seed), split=split)).counted
            counts.update(maze.tobytes() for maze in free)
    assert len(counts) == 4
    assert max(counts.values()) < 1.3 * min(counts.values())


@each_kind
def test_the_seed_determines_the_mazes(kind):
    first, again, other = (drawn(kind, seed=seed).inputs for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not (first == other).all((1, 2, 3)).any()


def test_train_and_test_share_no_maze_and_have_them_all():
    # 4 trees of 2 × 2 cells, each with 12 pairs of ends.
    pictures = [
        picture.tobytes()
        for split, count in (("train", 23), ("test", 25))
        for picture in drawn("prim", count, size=3, split=split).inputs
    ]
    assert len(set(pictures)) == 48


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        (10, "prim", "size is 10; it must be odd: 9 or 11"),
        (1, "prim", "size is 1; it must be a whole number at least 3"),
        (9, "kruskal", "kind is 'kruskal'; it must be one of 'depth_first', 'prim', 'uniform'"),
    ],
)
def test_refused(size, kind, message):
    with pytest.raises(ValueError, match=message):
        mazes.generate(1, size, 0, kind)
