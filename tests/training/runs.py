"""A small training state and a run that saves it, for the tests of checkpoints."""

import dataclasses
import sys
from typing import Any

import grain
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

CONFIG = {"model": {"channels": [8, 16], "groups": 4}, "train": {"steps": 100}, "seed": 0}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array


def sharding(*axes):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(*axes))


def make_state(step, size=4):
    """A state whose every value follows from the step."""
    key = jax.random.key(step)
    params = {
        "stem": {"kernel": jax.random.normal(key, (3, 3, size, size)), "bias": jnp.ones(size)},
        "head": {"kernel": jax.random.normal(key, (size, 10), jnp.bfloat16)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    state = State(
        step=jnp.int32(step),
        params=params,
        batch_stats={"bn": {"mean": jnp.full(size, step / 7)}},
        opt_state=opt_state,
        key=jax.random.key_data(key),
    )
    return jax.device_put(state, sharding())


def abstract(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def data_iterator(position=0):
    iterator = iter(grain.MapDataset.range(10**6).to_iter_dataset())
    for _ in range(position):
        next(iterator)
    return iterator


def save_forever(workdir):
    """Resumes, then saves at every step; each step is also the best so far."""
    from mdeq_jax.training.checkpoints import Checkpointer

    iterator = data_iterator()
    with Checkpointer(workdir, CONFIG) as checkpointer:
        resumed = checkpointer.restore_latest(abstract(make_state(0)), iterator)
        step = resumed[0] if resumed else 0
        print("ready", flush=True)
        while True:
            step += 1
            assert next(iterator) == step - 1
            checkpointer.save_best(step, make_state(step), {"accuracy": float(step)})
            checkpointer.save(step, make_state(step), iterator)
            print(step, flush=True)


if __name__ == "__main__":
    save_forever(sys.argv[1])
