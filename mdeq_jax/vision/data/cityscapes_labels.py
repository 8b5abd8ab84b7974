"""The labels of Cityscapes: ids of the label files, classes, and colours.

Source: `cityscapesscripts/helpers/labels.py`, mcordts/cityscapesScripts.
"""

from typing import NamedTuple

import numpy as np

from mdeq_jax.vision.config import IGNORE


class Label(NamedTuple):
    """A label.

    Attributes:
      name: name of the label.
      id: id in the files `*_gtFine_labelIds.png` and in the files for the evaluation server.
      train_id: class in training and scoring, 0 to 18, or `IGNORE`.
      colour: (red, green, blue).
    """

    name: str
    id: int
    train_id: int
    colour: tuple[int, int, int]


LABELS = (
    Label("unlabeled", 0, IGNORE, (0, 0, 0)),
    Label("ego vehicle", 1, IGNORE, (0, 0, 0)),
    Label("rectification border", 2, IGNORE, (0, 0, 0)),
    Label("out of roi", 3, IGNORE, (0, 0, 0)),
    Label("static", 4, IGNORE, (0, 0, 0)),
    Label("dynamic", 5, IGNORE, (111, 74, 0)),
    Label("ground", 6, IGNORE, (81, 0, 81)),
    Label("road", 7, 0, (128, 64, 128)),
    Label("sidewalk", 8, 1, (244, 35, 232)),
    Label("parking", 9, IGNORE, (250, 170, 160)),
    Label("rail track", 10, IGNORE, (230, 150, 140)),
    Label("building", 11, 2, (70, 70, 70)),
    Label("wall", 12, 3, (102, 102, 156)),
    Label("fence", 13, 4, (190, 153, 153)),
    Label("guard rail", 14, IGNORE, (180, 165, 180)),
    Label("bridge", 15, IGNORE, (150, 100, 100)),
    Label("tunnel", 16, IGNORE, (150, 120, 90)),
    Label("pole", 17, 5, (153, 153, 153)),
    Label("polegroup", 18, IGNORE, (153, 153, 153)),
    Label("traffic light", 19, 6, (250, 170, 30)),
    Label("traffic sign", 20, 7, (220, 220, 0)),
    Label("vegetation", 21, 8, (107, 142, 35)),
    Label("terrain", 22, 9, (152, 251, 152)),
    Label("sky", 23, 10, (70, 130, 180)),
    Label("person", 24, 11, (220, 20, 60)),
    Label("rider", 25, 12, (255, 0, 0)),
    Label("car", 26, 13, (0, 0, 142)),
    Label("truck", 27, 14, (0, 0, 70)),
    Label("bus", 28, 15, (0, 60, 100)),
    Label("caravan", 29, IGNORE, (0, 0, 90)),
    Label("trailer", 30, IGNORE, (0, 0, 110)),
    Label("train", 31, 16, (0, 80, 100)),
    Label("motorcycle", 32, 17, (0, 0, 230)),
    Label("bicycle", 33, 18, (119, 11, 32)),
)

# The 19 labels that are scored, in the order of their classes.
CLASSES = tuple(label for label in LABELS if label.train_id != IGNORE)
CLASS_NAMES = tuple(label.name for label in CLASSES)

# The id and the colour of each class, to write predictions: LABEL_IDS[prediction].
LABEL_IDS = np.array([label.id for label in CLASSES], np.uint8)
PALETTE = np.array([label.colour for label in CLASSES], np.uint8)
