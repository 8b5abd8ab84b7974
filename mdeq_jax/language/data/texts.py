"""Where texts come from: WikiText-103's files, a folder of text files, or the standard library."""

import hashlib
import itertools
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from absl import logging

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

WIKITEXT_PAGE = "https://huggingface.co/datasets/Salesforce/wikitext"

# SHA-256 of `pydoc_text` under releases of python.org.
PYDOC_SHA256 = {
    "3.11.7": "d344165f4678690670e6d9b4aaf2dd8393d9beaec4de7aded7073112318daf4f",
    "3.12.1": "92737c3ca69384cbfa29b0fbeee2a6bf4d004cf5c0da1fc366e72fd94b413aa5",
    "3.13.0": "66ffbe22c47d9f13f3689c023c92f08e9beb58071ead7d4c0b181b5ac9f6b5a5",
}


class Texts(NamedTuple):
    """The splits of a text.

    Attributes:
      lines: returns the lines of a split from its start; every line ends in a newline.
      sha256: SHA-256 of all bytes of the splits, in hexadecimal.
    """

    lines: Callable[[Split], Iterable[str]]
    sha256: str


def require_sha256(texts: Texts, expected: str | None, name: str) -> None:
    """Raise ValueError unless a text has the SHA-256 that is expected of it.

    Args:
      texts: the text.
      expected: config.data.sha256; None is any, and for "pydoc" that of the Python release.
      name: config.data.text.
    """
    version = platform.python_version()
    pinned = PYDOC_SHA256.get(version) if name == "pydoc" else None
    wanted = expected or pinned
    if wanted is not None and texts.sha256 != wanted:
        whose = "config.data.sha256" if expected else f"the text of Python {version}"
        raise ValueError(
            f"the text {name!r} has the SHA-256 {texts.sha256}, but {whose} is {wanted}. Use that "
            f"text, or set config.data.sha256={texts.sha256} to take this one."
        )


def pydoc_text() -> str:
    """Return the text of `pydoc_data.topics`, with each of its paragraphs once.

    It is the language reference of the running Python, in which some sections stand twice.
    """
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics.values()).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs)) + "\n"


def read_pydoc() -> Texts:
    """Return the splits of `pydoc_text`; warn unless its hash is known."""
    text, version = pydoc_text(), platform.python_version()
    found = hashlib.sha256(text.encode()).hexdigest()
    if version not in PYDOC_SHA256:
        logging.warning(
            "The text of pydoc_data in Python %s has the SHA-256 %s; the recorded figures are of "
            "another text.",
            version,
            found,
        )
    parts = split_lines(text.splitlines(keepends=True))
    return Texts(dict(zip(SPLITS, parts, strict=True)).__getitem__, found)


def read_folder(root: str | Path, *, wikitext: bool = False, keep_bytes: bool = False) -> Texts:
    """Return the splits of a folder of text files in UTF-8.

    These are ROOT/train.txt, valid.txt and test.txt, or ROOT/wiki.train.tokens and so on. In a
    folder without them all files *.txt, in the order of their names, are one text, which
    `split_lines` splits.

    Args:
      root: the folder.
      wikitext: whether only files of the three splits will do.
      keep_bytes: whether bytes that are no UTF-8 are kept (as surrogates) instead of an error.

    Raises:
      ValueError: files are missing. From the lines: a file is empty or is not UTF-8.
    """
    folder = Path(root)
    paths = split_files(folder)
    if paths:
        read = lambda split: read_lines([paths[split]], keep_bytes)  # noqa: E731
        return Texts(read, _hash_files(paths.values()))
    found = [] if wikitext else sorted(folder.glob("*.txt"))
    if not found:
        raise ValueError(
            f"config.data.root is {str(root)!r}, which has no train.txt, valid.txt and test.txt "
            "and no wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens"
            + (
                f". WikiText-103 is at {WIKITEXT_PAGE}."
                if wikitext
                else ", and no other *.txt files; give a folder of text files."
            )
        )
    parts = split_lines(list(read_lines(found, keep_bytes)))
    return Texts(dict(zip(SPLITS, parts, strict=True)).__getitem__, _hash_files(found))


def split_files(folder: Path) -> dict[Split, Path]:
    """Return the files of all three splits in a folder, or {} if it has none of them.

    Raises:
      ValueError: the folder has some of the three files.
    """
    for name in ("{}.txt", "wiki.{}.tokens"):
        paths: dict[Split, Path] = {split: folder / name.format(split) for split in SPLITS}
        there = [path.is_file() for path in paths.values()]
        if all(there):
            return paths
        if there[0]:
            absent = [path.name for path in paths.values() if not path.is_file()]
            raise ValueError(f"{folder} has {paths['train'].name} but no {' and '.join(absent)}.")
    return {}


def split_lines(lines: Sequence[str]) -> list[Sequence[str]]:
    """Return the first 90 % of a text, the next 5 % and the last 5 %, up to whole lines."""
    bounds = [0, len(lines) * 90 // 100, len(lines) * 95 // 100, len(lines)]
    return [lines[start:stop] for start, stop in itertools.pairwise(bounds)]


def read_lines(paths: Iterable[Path], keep_bytes: bool = False) -> Iterator[str]:
    """Yield the lines of files, each with a newline at its end.

    Args:
      paths: text files in UTF-8.
      keep_bytes: whether bytes that are no UTF-8 are kept (as surrogates) instead of an error.

    Raises:
      ValueError: a file is empty, or has bytes that are no UTF-8.
    """
    for path in paths:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty; remove it, or fill it with text.")
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _decode(line, path, number, keep_bytes).rstrip("\r\n") + "\n"


def _decode(line: bytes, path: Path, number: int, keep_bytes: bool) -> str:
    try:
        return line.decode("utf-8", "surrogateescape" if keep_bytes else "strict")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number} has the byte {line[error.start]:#04x}, which is no UTF-8 "
            "there. Convert the file, such as by `iconv -f LATIN1 -t UTF-8`, or set "
            "config.data.vocabulary='bytes'."
        ) from None


def _hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
