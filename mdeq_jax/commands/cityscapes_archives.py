"""Check the official Cityscapes archives, and extract them.

    python -m mdeq_jax.commands.cityscapes_archives --archives=DIR              # only check
    python -m mdeq_jax.commands.cityscapes_archives --archives=DIR --root=ROOT  # extract them
    python -m mdeq_jax.commands.cityscapes_archives --root=ROOT                 # only lists

DIR holds `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`.
`mdeq_jax.commands.prepare` prepares them through TFDS instead. The last line on stdout is one JSON
object: the number of images of each split in the archives, and notes on lists that lack images.
"""

from pathlib import Path
from typing import Any

from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.vision.data.cityscapes_archives import COUNTS, check_archives, extract, write_lists


def main(archives: Path | None, root: Path | None, *, partial: bool) -> dict[str, Any]:
    """Check archives, extract them, and write the lists of what was extracted.

    Args:
      archives: folder of the official archives; None neither checks nor extracts.
      root: folder to extract into, and to write the lists in; None does neither.
      partial: whether archives may hold any number of images.
    """
    if archives is None and root is None:
        raise ValueError("nothing to do; give --archives=DIR, --root=ROOT, or both.")
    result = {}
    if archives is not None:
        result["images"] = check_archives(archives, None if partial else COUNTS)
        if root is not None:
            extract(archives, root)
    if root is not None:
        result["notes"] = write_lists(root)
    return result


def run() -> None:
    """Run the command under the flags of the process."""
    archives = flags.DEFINE_string("archives", None, "Folder with the official archives.")
    root = flags.DEFINE_string("root", None, "Where to extract them, and to write lists.")
    partial = flags.DEFINE_bool("partial", False, "Accept any number of images.")
    folders = (archives, root)
    cli.run(
        __doc__,
        lambda: main(
            *(None if folder.value is None else Path(folder.value) for folder in folders),
            partial=partial.value,
        ),
    )


if __name__ == "__main__":
    run()
