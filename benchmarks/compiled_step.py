"""The temporary memory of a compiled training step, which is not run."""

import time
from typing import Any

import jax
from jax.sharding import AxisType
from jaxtyping import PyTree

from benchmarks.results import Row
from mdeq_jax.training.experiment import Experiment
from mdeq_jax.training.mesh import AXIS
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import create_state
from mdeq_jax.training.steps import make_train_step

_MIB = 2**20
# Buffers are assigned before code is generated, and nothing is run: the code may be slow.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compile_step(experiment: Experiment, batch: PyTree) -> Row:
    """Return temp_mib, the temporary memory of a training step in MiB, and compile_s in seconds.

    The step is the first one of a run, on one device.

    Args:
      experiment: the experiment.
      batch: a prepared batch, of arrays or of `jax.ShapeDtypeStruct`.
    """
    started, config = time.perf_counter(), experiment.config
    mesh = jax.make_mesh((1,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    optimizer = create_optimizer(config.optim, 1000, 100)
    step: Any = make_train_step(
        experiment, optimizer, mesh, unrolled=config.train.unrolled_at(0), steps_per_epoch=100
    )
    state = jax.eval_shape(lambda: create_state(experiment, optimizer))
    options = _QUICK if jax.default_backend() == "cpu" else None
    compiled = step.lower(state, batch).compile(compiler_options=options)
    return {
        "temp_mib": compiled.memory_analysis().temp_size_in_bytes / _MIB,
        "compile_s": time.perf_counter() - started,
    }
