"""The official archives of data sets: their names, and where they are to be had."""

from pathlib import Path
from typing import NamedTuple


class Archives(NamedTuple):
    """What a data set is prepared from.

    Attributes:
      names: of the files.
      site: where to download them.
    """

    names: tuple[str, ...]
    site: str

    def into(self, folder: str | Path) -> str:
        """Return the words by which a message asks for them in a folder."""
        return f"put {' and '.join(self.names)}, from {self.site}, into {folder}"


ARCHIVES = {
    "cifar10": Archives(
        ("cifar-10-binary.tar.gz",), "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    ),
    "imagenet2012": Archives(
        ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
    ),
    "cityscapes": Archives(
        ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
        "https://www.cityscapes-dataset.com/downloads",
    ),
}
