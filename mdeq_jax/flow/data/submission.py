"""Write predicted flow as the benchmarks take it.

    Sintel: FOLDER/{clean,final}/SCENE/frame0001.flo
    KITTI:  FOLDER/000000_10.png

Source: `evaluate.py`, locuslab/deq-flow.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from mdeq_jax.flow.data.formats import Flow, write_flo, write_kitti


def write_sintel_submission(folder: str | Path, flows: Iterable[tuple[str, Flow]]) -> list[Path]:
    """Write a .flo file for each pair of `sintel(root, "test", render)`.

    Args:
      folder: folder to write to, made if it is not there.
      flows: name of the record and flow (H, W, 2) in pixels, such as ("clean/ambush_1/frame0001",
        flow).

    Returns:
      The paths of the files.
    """
    return _write_all(folder, flows, ".flo", write_flo)


def write_kitti_submission(folder: str | Path, flows: Iterable[tuple[str, Flow]]) -> list[Path]:
    """Write a 16-bit PNG file for each pair of `kitti(root, "testing")`.

    Args:
      folder: folder to write to, made if it is not there.
      flows: name of the record and flow (H, W, 2) in pixels, such as ("000000_10", flow).

    Returns:
      The paths of the files.
    """
    return _write_all(folder, flows, ".png", write_kitti)


def _write_all(
    folder: str | Path,
    flows: Iterable[tuple[str, Flow]],
    suffix: str,
    write: Callable[[Path, Flow], None],
) -> list[Path]:
    paths = []
    for name, flow in flows:
        paths.append(Path(folder, name + suffix))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write(paths[-1], flow)
    return paths
