"""TFDS data sets that need no download: prepared on first use, without TensorFlow."""

import contextlib
import io
import tempfile
from collections.abc import Iterator

import tensorflow_datasets as tfds

from mdeq_jax.vision.data.dataset import Example


def load_split(
    builder_class: type[tfds.core.GeneratorBasedBuilder], data_dir: str | None, split: str
) -> list[Example]:
    """Return the decoded examples of a split, from a builder that generates its own data.

    They are prepared if necessary, and held in memory.

    Args:
      builder_class: the TFDS builder.
      data_dir: folder of all TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      split: name of the split.

    Raises:
      ValueError: the folder cannot be written.
    """
    builder = builder_class(data_dir=data_dir)
    if not builder.data_path.exists():
        _prepare(builder)
    return list(tfds.data_source(builder.name, split=split, data_dir=builder.data_dir_root))


def _prepare(builder: tfds.core.GeneratorBasedBuilder) -> None:
    root, target = builder.data_dir_root, builder.data_path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # TFDS names its own temporary folder with the global `random`, so two processes that seed
        # it alike would write into one; a folder of our own and a rename hold in every case.
        with tempfile.TemporaryDirectory(dir=root, prefix=f"incomplete_{builder.name}_") as scratch:
            staged = type(builder)(data_dir=scratch)
            with _silence():
                staged.download_and_prepare(file_format="array_record")
            staged.data_path.rename(target)
    except (OSError, RuntimeError) as error:  # TFDS reports a failed write as RuntimeError
        # Another process may have been first; its copy is equal.
        if not target.exists():
            raise ValueError(
                f"cannot prepare the data set {builder.name!r} in {root}: {error}. Set"
                " config.data.dir (or TFDS_DATA_DIR) to a folder that can be written."
            ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep TFDS's notices and progress bars off the console: preparation takes a second."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
