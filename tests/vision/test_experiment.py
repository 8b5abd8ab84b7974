"""MDEQ as an experiment: what the training loop asks of it, and how often data sets are opened."""

import collections
import dataclasses
import inspect

import numpy as np
import pytest

from mdeq_jax.commands import train as train_command
from mdeq_jax.training.experiment import Experiment
from mdeq_jax.training.loop import train
from mdeq_jax.vision.config import Config, finalize
from mdeq_jax.vision.data import pipeline
from mdeq_jax.vision.experiment import VisionExperiment, create_experiment

TINY = {
    "model": {
        "branch_channels": (8,),
        "blocks_per_branch": (1,),
        "big_kernels": (0,),
        "head_channels": (4,),
        "final_channels": 16,
        "num_groups": 4,
        "expansion": 1,
    },
    "train": {"steps": 2, "eval_every": 1, "pretrain_steps": 5, "num_layers": 1},
}


def test_it_has_what_the_protocol_asks_for():
    experiment: Experiment = VisionExperiment(Config())  # pyright checks the types
    assert {*Experiment.__annotations__, "train_size", "progress"} <= set(dir(experiment))
    methods = inspect.getmembers(Experiment, inspect.isfunction)
    methods = {name: method for name, method in methods if not name.startswith("_")}
    assert {"forward", "decode", "loss", "predict"} <= methods.keys()
    for name, method in methods.items():
        asked, ours = (
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
            for f in (method, getattr(VisionExperiment, name))
        )
        assert ours == asked, name


@pytest.mark.slow
def test_training_opens_each_split_once(monkeypatch, tmp_path):
    """Two steps, two evaluations and the picture at the end."""
    opened, find = collections.Counter(), pipeline.DATASETS["digits"]

    def counted(split, open_split):
        def open_counted():
            opened[split] += 1
            return open_split()

        return open_counted

    def find_counted(data):
        opened["data set"] += 1
        dataset = find(data)
        return dataclasses.replace(
            dataset,
            open_train=counted("train", dataset.open_train),
            open_eval=counted("eval", dataset.open_eval),
            eval_image_size=counted("size", dataset.eval_image_size),
        )

    monkeypatch.setitem(pipeline.DATASETS, "digits", find_counted)
    monkeypatch.setattr(
        train_command, "solver_traces", lambda *_: (np.ones((4, 1)), np.ones((4, 1)))
    )
    experiment = create_experiment(finalize({**TINY, "data": {"dir": str(tmp_path / "data")}}))
    trained = train(experiment, tmp_path / "run")
    assert trained.metrics["eval/examples"] == 360
    picture = tmp_path / "solver_trace.png"
    train_command._draw_solver_traces(experiment, trained.state, picture)
    assert picture.exists()
    assert opened == {"data set": 1, "train": 1, "eval": 1, "size": 1}
