"""Vocabularies of words, characters or bytes: text to numbers, and back.

Source: Transformer-XL's vocabulary (Dai et al., ACL 2019), which locuslab/deq uses.
"""

import codecs
import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8

Kind = Literal["words", "characters", "bytes"]

END = "<eos>"
UNKNOWN = {"words": "<unk>", "characters": "\ufffd"}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokens of a text by number.

    Attributes:
      kind: "words", the words of `str.split`, with "<eos>" at the end of each line; "characters",
        Unicode code points; or "bytes", those of the text in UTF-8.
      tokens: the tokens by number; () for "bytes", whose number is their value.

    Examples:
      >>> words = Vocabulary("words", ("<eos>", "tea", "green"))
      >>> words.encode("green tea\\n").tolist(), words.decode([2, 1, 0])
      ([2, 1, 0], 'green tea\\n')
    """

    kind: Kind
    tokens: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of tokens."""
        return 256 if self.kind == "bytes" else len(self.tokens)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @property
    def unknown(self) -> int | None:
        """Number of the token that stands for what the vocabulary lacks, or None."""
        return None if self.kind == "bytes" else self._numbers.get(UNKNOWN[self.kind])

    def missing(self, text: str) -> list[str]:
        """Return the distinct tokens of a text that the vocabulary lacks, in order."""
        if self.kind == "bytes":
            return []
        return [token for token in dict.fromkeys(split(text, self.kind)) if token not in self]

    def __contains__(self, token: str) -> bool:
        """Return whether a word or a character has a number."""
        return token in self._numbers

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """Return the numbers of the tokens of a text.

        Raises:
          ValueError: the text has a token that the vocabulary lacks, and there is no token for
            unknown ones.
        """
        return self.encode_lines([text])

    def encode_lines(self, lines: Iterable[str]) -> Int32[np.ndarray, " n"]:
        """Return the numbers of the tokens of lines, one line after the other; like `encode`."""
        if self.kind == "bytes":
            return np.frombuffer(b"".join(map(to_bytes, lines)), np.uint8).astype(np.int32)
        tokens = itertools.chain.from_iterable(split(line, self.kind) for line in lines)
        known, unknown = self._numbers, self.unknown
        if unknown is not None:
            return np.fromiter((known.get(token, unknown) for token in tokens), np.int32)
        try:
            return np.fromiter((known[token] for token in tokens), np.int32)
        except KeyError as error:
            raise ValueError(
                f"the text has the word {error.args[0]!r}, which is not in the vocabulary of "
                f"{len(self)} words. Set config.data.min_count=2, so that {UNKNOWN['words']!r} "
                "stands for rare and unknown words, or config.data.vocabulary='characters'."
            ) from None

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of tokens. Words are separated by single spaces."""
        add = self.decoder()
        return "".join(add(int(number)) for number in numbers)

    def decoder(self) -> Callable[[int], str]:
        """Return a function from the number of the next token to the text that it adds.

        A byte that does not complete a character adds nothing yet.
        """
        if self.kind == "bytes":
            to_text = codecs.getincrementaldecoder("utf-8")("replace")
            return lambda number: to_text.decode(bytes([number]))
        if self.kind == "characters":
            return self.tokens.__getitem__
        starts_line = True

        def add(number: int) -> str:
            nonlocal starts_line
            token = "\n" if self.tokens[number] == END else self.tokens[number]
            space = "" if starts_line or token == "\n" else " "
            starts_line = token == "\n"
            return space + token

        return add

    def to_array(self) -> UInt8[np.ndarray, " n"]:
        """Return the tokens as the bytes of a JSON list, for `from_array`."""
        return np.frombuffer(to_bytes(json.dumps(self.tokens, ensure_ascii=False)), np.uint8)

    @classmethod
    def from_array(cls, kind: Kind, array: UInt8[np.ndarray, " n"]) -> "Vocabulary":
        """Return the vocabulary whose `to_array` is the array."""
        return cls(kind, tuple(json.loads(np.asarray(array, np.uint8).tobytes())))

    @functools.cached_property
    def fingerprint(self) -> str:
        """The first 16 digits of the SHA-256 of the kind and the tokens."""
        return hashlib.sha256(self.kind.encode() + self.to_array().tobytes()).hexdigest()[:16]


def split(text: str, kind: Kind) -> Sequence[str]:
    """Return the words or the characters of a text; a newline after words is "<eos>"."""
    if kind == "characters":
        return text
    *lines, last = text.split("\n")
    return [word for line in lines for word in (*line.split(), END)] + last.split()


def count(lines: Iterable[str], kind: Kind) -> Counter[str]:
    """Return how often the lines have each word or character, without "<eos>" at line ends."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split() if kind == "words" else line)
    return counts


def build(lines: Iterable[str], kind: Kind, min_count: int = 1) -> Vocabulary:
    """Return the vocabulary of a text: its most frequent token first.

    Tokens of the same frequency are in the order in which the text has them. The first token is
    "<eos>" for words, and "\ufffd", which stands for unknown ones, for characters.

    Args:
      lines: the text; every line ends in a newline.
      kind: "words", "characters" or "bytes".
      min_count: how often the text has a token of the vocabulary at least. With words and more than
        1, "<unk>", which stands for the others, is the second token.
    """
    if kind == "bytes":
        return Vocabulary(kind)
    special = [END] if kind == "words" else [UNKNOWN[kind]]
    if kind == "words" and min_count > 1:
        special.append(UNKNOWN[kind])
    frequent = (t for t, n in count(lines, kind).most_common() if n >= min_count)
    return Vocabulary(kind, tuple(dict.fromkeys([*special, *frequent])))


def to_bytes(text: str) -> bytes:
    """Return a text in UTF-8, with the bytes that `read_lines` could not decode as they were."""
    return text.encode("utf-8", "surrogateescape")
