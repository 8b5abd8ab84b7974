"""The configuration of a run of a language model."""

import dataclasses
from typing import ClassVar, Literal

from mdeq_jax.checks import require, require_int
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.training import config as run_config
from mdeq_jax.training.config import OptimConfig, RunConfig, TrainConfig
from mdeq_jax.training.layer_config import SolverConfig, SolversConfig


@dataclasses.dataclass(frozen=True)
class DataConfig(run_config.DataConfig):
    """The text, and how it is cut.

    A text is cut into as many rows as a batch has, and a row into pieces of `length` tokens. The
    batches have the pieces of the rows in order, so that a memory passes along a row.

    Attributes:
      text: "pydoc", the language reference that comes with Python as `pydoc_data.topics`, in which
        each paragraph is taken once; "wikitext103", the files of WikiText-103; or "text_folder", a
        folder of text files in UTF-8.
      root: folder of "wikitext103" or "text_folder". It has train.txt, valid.txt and test.txt, or
        wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens. In a "text_folder" without these
        all files *.txt are one text, of which the last tenth is for evaluation.
      sha256: SHA-256 that the text must have, in hexadecimal; None is any, and for "pydoc" the
        known one of the Python release. Messages name the one that is found.
      vocabulary: "characters", "words" (of `str.split`, and "<eos>" at the end of each line) or
        "bytes". Words and characters are those of the training text.
      min_count: how often the training text has a word or character of the vocabulary at least;
        with words and more than 1, "<unk>" stands for the others.
      cache: folder in which the numbers of a text from files are kept; None is `root`.
      length: number of tokens of a row in a batch, at least 1.
      eval_split: the part of the text that is evaluated, "valid" or "test".
    """

    batch_size: int = 16
    eval_batch_size: int = 16
    text: Literal["pydoc", "wikitext103", "text_folder"] = "pydoc"
    root: str | None = None
    sha256: str | None = None
    vocabulary: Literal["characters", "words", "bytes"] = "characters"
    min_count: int = 1
    cache: str | None = None
    length: int = 64
    eval_split: Literal["valid", "test"] = "valid"

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        for field in ("min_count", "length"):
            require_int(self, field, minimum=1)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluations beside "eval", which has the memory and the solver of training.

    Attributes:
      memories: numbers of positions of the memory, each of which is one evaluation. Metrics have
        the number in their names, such as "eval/bits_per_character_memory128". The longest memory
        is stored with the state, so a run resumes with the same numbers only; `eval.py` takes
        others.
      steps: largest numbers of solver steps, each of which is one evaluation. Metrics have the
        number in their names, such as "eval/bits_per_character_steps6".
    """

    memories: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field, least in (("memories", 0), ("steps", 1)):
            values = getattr(self, field)
            fits = len({*values}) == len(values) and min(values, default=least) >= least
            require(self, field, fits, f"distinct numbers of at least {least}")


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The config of a run: the keys of `RunConfig`, and these.

    Attributes:
      app: "language".
      model: the architecture.
      data: the text, and how it is cut.
      evaluation: evaluations with other memories and numbers of solver steps.
    """

    may_change_on_resume: ClassVar[tuple[str, ...]] = (
        *run_config.MAY_CHANGE_ON_RESUME,
        "data.root",
        "data.cache",
        "data.eval_split",
        "evaluation.steps",
    )

    app: Literal["language"] = "language"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    solver: SolversConfig = SolversConfig(
        SolverConfig("anderson", max_steps=12), SolverConfig(max_steps=12)
    )
    optim: OptimConfig = OptimConfig(clip_norm=0.25)
    train: TrainConfig = TrainConfig(steps=2000, eval_every=500)
