"""scikit-learn's 569 breast-cancer examples, split at random."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.datasets import load_breast_cancer


class Data(NamedTuple):
    """Examples of two classes.

    Attributes:
      features: (N, F) float64.
      labels: (N,), −1 or 1.
    """

    features: Float[np.ndarray, "N F"]
    labels: Float[np.ndarray, "N"]


class Problem(NamedTuple):
    """Examples for the weights, for the penalty, and for the final test."""

    train: Data
    validation: Data
    test: Data


def load_problem(seed: int, train_examples: int = 190) -> Problem:
    """Split the examples at random; validation and test share the examples not used for training.

    As in the experiment of Ramzi et al. (arXiv 2106.00553), features are divided by their standard
    deviation over the training examples and not centred. This leaves the Hessian ill-conditioned.

    Raises:
      ValueError: seed is negative or train_examples leaves a part with fewer than 2 examples.
    """
    features, classes = load_breast_cancer(return_X_y=True)
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be at least 0.")
    if not 2 <= train_examples <= len(classes) - 4:
        raise ValueError(
            f"train_examples is {train_examples}; of {len(classes)} it must be 2 to "
            f"{len(classes) - 4}, so that validation and test have 2 each."
        )
    order = np.random.RandomState(seed).permutation(len(classes))
    features = features / features[order[:train_examples]].std(axis=0)
    middle = (len(classes) + train_examples) // 2
    parts = np.split(order, [train_examples, middle])
    return Problem(*(Data(features[part], 2.0 * classes[part] - 1) for part in parts))
