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


def run() -> None:
    """Run the command under the flags of the process."""
    archives = flags.DEFINE_string("archives", None, "Folder with the official archives.")
    root = flags.DEFINE_string("root", None, "Where to extract them, and to write lists.")
    partial = flags.DEFINE_bool("partial", False, "Accept any number of images.")

    def command() -> dict[str, Any]:
        source, target = archives.value, root.value
        if source is None and target is None:
            raise ValueError("nothing to do; give --archives=DIR, --root=ROOT, or both.")
        result = {}
        if source is not None:
            counts = None if partial.value else COUNTS
            result["images"] = check_archives(Path(source), counts)
            if target is not None:
                extract(Path(source), Path(target))
        if target is not None:
            result["notes"] = write_lists(Path(target))
        return result

    cli.run(__doc__, command)


if __name__ == "__main__":
    run()
