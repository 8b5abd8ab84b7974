"""The cost of an implicit model and of explicit models in training and inference."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from benchmarks.problems import Setting, setting
from benchmarks.resnet import ResNet
from benchmarks.timing import milliseconds, ratio, report, take_turns
from benchmarks.training import repeatable, training_step

DEPTHS = (18, 50, 101)


def main(config: str = "cifar10_tiny", batch: int = 8, rounds: int = 3) -> None:
    """Print training and inference times of the config's model and of ResNets.

    Args:
      config: name of a file in configs.
      batch: number of images of a training step, and of inference.
      rounds: number of measurements of each model.
    """
    bench = setting(config, batch)
    solver = bench.config.solver.forward.build()
    apply = jax.jit(functools.partial(bench.model.apply, solver=solver))
    train = {config: repeatable(*training_step(bench, None))}
    infer: dict[str, Callable[[], Any]] = {
        config: functools.partial(apply, bench.variables, bench.images)
    }
    parameters = {config: _count(bench.variables["params"])}
    for depth in DEPTHS:
        name = f"ResNet-{depth}"
        train[name], infer[name], parameters[name] = _resnet(depth, bench)
    trained, inferred = take_turns(train, rounds), take_turns(infer, rounds)
    rows = [
        {
            "model": name,
            "parameters": parameters[name],
            "train_ms": milliseconds(trained[name]),
            "train_over": ratio(trained, config, name),
            "infer_ms": milliseconds(inferred[name]),
            "infer_over": ratio(inferred, config, name),
        }
        for name in train
    ]
    report("explicit", rows, config=config, batch=batch, steps=solver.max_steps)


def _resnet(depth: int, bench: Setting) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    model = ResNet(depth, bench.config.model.num_classes)
    variables = jax.jit(model.init)(jax.random.key(0), bench.images[:1])
    optimizer = optax.adam(1e-3)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        params, statistics, opt_state = state

        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": statistics}
            logits, updated = model.apply(
                variables, batch["image"], train=True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, batch["label"]).mean(), updated["batch_stats"]

        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), statistics, opt_state), value

    params = jax.tree.map(lambda x: x.copy(), variables["params"])
    state: Any = (params, variables["batch_stats"], optimizer.init(params))
    state = jax.tree.map(lambda x: x.copy(), state)
    batch = {"image": bench.images, "label": bench.labels}
    infer = functools.partial(jax.jit(model.apply), variables, bench.images)
    return repeatable(step, state, batch), infer, _count(params)


def _count(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))
