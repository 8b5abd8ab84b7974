"""Prepare a data set through TFDS, in ArrayRecord, from its official archives.

    python -m mdeq_jax.commands.prepare --name=imagenet2012 --source=DIR --data-dir=TFDS

`--source` is the folder of the archives: for cifar10 `cifar-10-binary.tar.gz`; for imagenet2012
`ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar`; for cityscapes
`leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`. TFDS needs TensorFlow
(requirements-prepare.txt) to prepare data, but not to read them. The last line on stdout is one
JSON object.
"""

from pathlib import Path

from absl import flags

from mdeq_jax.commands import cli
from mdeq_jax.vision.data.prepare import prepare
from mdeq_jax.vision.data.prepared import ARCHIVES


def run() -> None:
    """Run the command under the flags of the process."""
    name = flags.DEFINE_enum("name", None, list(ARCHIVES), "The data set.", required=True)
    source = flags.DEFINE_string(
        "source", None, "Folder with the official archives.", required=True
    )
    data_dir = flags.DEFINE_string(
        "data-dir", None, "Folder of all TFDS data sets, as config.data.dir; TFDS's by default."
    )
    partial = flags.DEFINE_bool("partial", False, "Accept any number of images.")

    def command() -> dict[str, str]:
        folder = Path(source.value)
        prepared = prepare(name.value, folder, data_dir.value, partial=partial.value)
        return {"folder": str(prepared)}

    cli.run(__doc__, command)


if __name__ == "__main__":
    run()
