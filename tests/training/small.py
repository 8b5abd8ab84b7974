"""Experiments of a few numbers, for tests of the training loop whose outcome can be derived."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mdeq_jax.training.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.evaluation import masked_sums, solver_statistics
from mdeq_jax.training.experiment import Evaluation, Forward, Prediction, Score
from mdeq_jax.training.loaders import eval_batches, ordered_batches
from mdeq_jax.training.weights import load_matching

ROWS, LENGTH = 16, 6


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of both experiments."""

    app: str = "small"
    data: DataConfig = DataConfig(batch_size=ROWS, eval_batch_size=ROWS)
    optim: OptimConfig = OptimConfig("sgd", learning_rate=0.1, schedule="constant", momentum=0.0)
    train: TrainConfig = TrainConfig(steps=4, log_every=1000, eval_every=1000)


class Line:
    """ŷ = w x, without an equilibrium or a collection; y = 3 x + noise.

    The loss e exp(−s) + s, with e the squared error, has the parameter s.
    """

    sample, record_name, progress = "row", "prediction", {}
    score = Score("eval/error", higher_is_better=False)
    train_size, length = ROWS, 1

    def __init__(self, config=None):
        """Draw the rows."""
        self.config = config or Config()
        generator, dtype = np.random.default_rng(0), jnp.result_type(float)
        shape = (ROWS * self.length, 1)
        self.x = generator.normal(size=shape).astype(dtype)
        self.y = 3 * self.x + 0.5 * generator.normal(size=shape).astype(dtype)

    def example(self, number):
        """Return a row, which says whether its stream begins."""
        return {"x": self.x[number], "y": self.y[number], "reset": self.begins(number)}

    def begins(self, number):
        """Return whether a stream begins at a row of the data."""
        return number % self.length == 0

    def init(self, key):
        """Return w = 1 and s = 0."""
        return {"params": {"w": jnp.ones(()), "s": jnp.zeros(())}}

    def init_carry(self, batch_size):
        """Return no carry."""
        return ()

    def load_weights(self, variables, source):
        """Return the weights of a checkpoint."""
        return load_matching(variables, source, self.config.init_from_allow_missing)

    def train_batches(self):
        """Return streams; without a carry, the same batch of all rows again and again."""
        return ordered_batches(range(len(self.x)), self.example, self.config.data)

    def evaluations(self):
        """Return one pass over the rows that are trained on."""
        rows = range(len(self.x) - 1)  # the last batch has a row of padding
        return {"eval": Evaluation(lambda: eval_batches(rows, self.example, self.config.data))}

    def prepare(self, batch):
        """Return the batch."""
        return batch

    def forward(self, variables, batch, layer, *, train, key=None, carry=()):
        """Return w x."""
        return Forward(variables["params"]["w"] * batch["x"])

    def decode(self, variables, z, batch, *, train):
        """Return the state."""
        return z

    def loss(self, variables, outputs, batch, axis_name):
        """Return e exp(−s) + s."""
        s = variables["params"]["s"]
        return ((outputs - batch["y"]) ** 2).mean() * jnp.exp(-s) + s, {}

    def predict(self, variables, batch, layer, carry):
        """Return the forward pass."""
        forward = self.forward(variables, batch, layer, train=False, carry=carry)
        statistics = solver_statistics(self.config, forward.solution)
        return Prediction(forward.outputs, statistics, forward.carry)

    def sums(self, outputs, batch):
        """Return the sum of squared errors."""
        return masked_sums({"error": ((outputs - batch["y"]) ** 2)[:, 0]}, batch["mask"])

    def summarize(self, sums):
        """Return the mean squared error."""
        return {"error": float(sums["error"] / sums["count"])}

    def record(self, outputs):
        """Return the outputs."""
        return outputs


class Streams(Line):
    """ŷ = w z*, z* = tanh(z* / 2 + x + m / 3), with the last step's equilibrium m as memory.

    The carry has the sum of x since the stream began, too, and the number of its steps. The streams
    of odd rows begin anew in their middle.
    """

    train_size, length = ROWS * LENGTH, LENGTH

    def begins(self, number):
        """Return whether a stream begins."""
        row, step = divmod(number, LENGTH)
        return step == 0 or (row % 2 == 1 and step == LENGTH // 2)

    def init(self, key):
        """Return a collection beside the parameters."""
        return {**super().init(key), "counts": {"steps": jnp.zeros((), jnp.int32)}}

    def init_carry(self, batch_size):
        """Return no memory."""
        zeros = jnp.zeros((batch_size, 1))
        return {"m": zeros, "sum": zeros, "steps": jnp.zeros(batch_size, jnp.int32)}

    def forward(self, variables, batch, layer, *, train, key=None, carry=()):
        """Return w z*, and count the steps of training."""
        f = lambda z, args: jnp.tanh(args[0] * z / 2 + args[1] + args[2] / 3)  # noqa: E731
        w, counts = variables["params"]["w"], variables["counts"]
        solution = layer(f, carry["m"], (w, batch["x"], carry["m"]))
        new = {
            "m": jax.lax.stop_gradient(solution.z),
            "sum": carry["sum"] + batch["x"],
            "steps": carry["steps"] + 1,
        }
        counts = jax.tree.map(lambda n: n + train, counts)
        return Forward(w * solution.z, solution, {"counts": counts}, new)

    def decode(self, variables, z, batch, *, train):
        """Return w z."""
        return variables["params"]["w"] * z
