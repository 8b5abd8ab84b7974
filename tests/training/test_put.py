"""Batches on their way to the devices: images in 8 bits, normalised when they are there."""

import jax
import numpy as np

from mdeq_jax.training import experiment
from mdeq_jax.training.mesh import create_mesh, shard
from mdeq_jax.vision.config import finalize
from mdeq_jax.vision.data.dataset import IMAGENET
from mdeq_jax.vision.experiment import create_experiment


def test_images_travel_in_eight_bits_and_are_normalised_there(monkeypatch):
    travelled = []
    monkeypatch.setattr(
        experiment, "shard", lambda *args: travelled.append(args[0]) or shard(*args)
    )
    config = finalize({"data": {"name": "imagenet2012"}, "model": {"num_classes": 1000}})
    mesh = create_mesh()
    images = np.random.default_rng(0).integers(0, 256, (2 * mesh.size, 4, 6, 3), np.uint8)
    batch = {"image": images, "label": np.arange(2 * mesh.size)}
    placed = experiment.make_put(create_experiment(config), mesh)(batch)
    assert travelled[0]["image"].dtype == np.uint8
    assert placed["image"].dtype == np.float32
    np.testing.assert_allclose(placed["image"], IMAGENET(images), atol=1e-6)
    np.testing.assert_array_equal(placed["label"], batch["label"])
    assert placed["image"].sharding.device_set == set(jax.devices())
    assert placed["image"].addressable_shards[1].index[0] == slice(2, 4)
