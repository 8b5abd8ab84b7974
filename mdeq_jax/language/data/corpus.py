"""A text as numbers, read once and kept in a cache file."""

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Int32

from mdeq_jax.language.config import Config, DataConfig
from mdeq_jax.language.data.texts import SPLITS, Texts, read_folder, read_pydoc, require_sha256
from mdeq_jax.language.data.vocabulary import Vocabulary, build
from mdeq_jax.training.weights import Trained

# Changes whenever the same text gives other numbers.
_FORMAT = 1


class Corpus(NamedTuple):
    """The splits of a text as numbers of tokens.

    Attributes:
      vocabulary: the vocabulary, of the split "train" alone.
      train: the text to train on.
      valid: the text to choose settings by.
      test: the text for the final figures.
    """

    vocabulary: Vocabulary
    train: Int32[np.ndarray, " n"]
    valid: Int32[np.ndarray, " m"]
    test: Int32[np.ndarray, " k"]


def open_corpus(options: DataConfig) -> Corpus:
    """Return the text that a config names.

    A text of files is kept as numbers in a file MDEQ_JAX_HASH.npz of config.data.cache. The hash
    covers the bytes of the text and the options of the vocabulary, so that a file of another text
    is never taken.

    Raises:
      ValueError: files are missing, empty or not UTF-8; the text has another SHA-256 than it must
        have, or words that the vocabulary lacks.
    """
    if options.text == "pydoc":
        texts = read_pydoc()
        require_sha256(texts, options.sha256, options.text)
        return encode(texts, options)
    if options.root is None:
        raise ValueError(
            f"config.data.text is {options.text!r}, which needs a folder of text files; give "
            "--config.data.root=FOLDER."
        )
    texts = read_folder(
        options.root,
        wikitext=options.text == "wikitext103",
        keep_bytes=options.vocabulary == "bytes",
    )
    require_sha256(texts, options.sha256, options.text)
    key = f"{_FORMAT} {texts.sha256} {options.vocabulary} {options.min_count}"
    name = f"mdeq_jax_{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    path = Path(options.cache or options.root) / name
    if path.is_file():
        return _read(path, options)
    corpus = encode(texts, options)
    _write(corpus, path)
    return corpus


def encode(texts: Texts, options: DataConfig) -> Corpus:
    """Return a text as numbers.

    Args:
      texts: the splits of the text.
      options: the kind of the vocabulary, and the fewest times that it has a token.
    """
    vocabulary = build(texts.lines("train"), options.vocabulary, options.min_count)
    return Corpus(vocabulary, *(vocabulary.encode_lines(texts.lines(split)) for split in SPLITS))


def _read(path: Path, options: DataConfig) -> Corpus:
    try:
        with np.load(path) as file:
            vocabulary = Vocabulary.from_array(options.vocabulary, file["vocabulary"])
            return Corpus(vocabulary, *(file[split] for split in SPLITS))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it.") from error


def _write(corpus: Corpus, path: Path) -> None:
    """Write a cache file, or warn if that fails."""
    arrays = {**corpus._asdict(), "vocabulary": corpus.vocabulary.to_array()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written elsewhere first, because several processes may write the file.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            np.savez(part, **arrays)
            part.replace(path)
    except OSError as error:
        logging.warning("The text is not cached (%s); set config.data.cache to a folder.", error)


def stored_vocabulary(trained: Trained[Config]) -> Vocabulary:
    """Return the vocabulary that a checkpoint stores, or else the one of its training text.

    Raises:
      ValueError: the number of tokens is not the one of the weights, or there is neither.
    """
    options = trained.config.data
    stored = tuple(trained.variables.get("vocabulary", {}).values())
    if stored:
        return Vocabulary.from_array(options.vocabulary, np.asarray(stored[0]))
    vocabulary = open_corpus(options).vocabulary
    tables = trained.variables["params"]["vocabulary"].items()
    words = sum(len(table) for name, table in tables if name.startswith("table_"))
    if len(vocabulary) != words:
        raise ValueError(
            f"the training text of config.data has {len(vocabulary)} {options.vocabulary}, but the "
            f"weights are of {words}. Set config.data to the text of the checkpoint."
        )
    return vocabulary
