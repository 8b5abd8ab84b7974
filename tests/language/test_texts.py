"""Texts and vocabularies: parity with locuslab/deq, the cache, own folders, and files that fail."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mdeq_jax.language.config import DataConfig
from mdeq_jax.language.data import corpus as corpora
from mdeq_jax.language.data import texts
from mdeq_jax.language.data.corpus import open_corpus
from mdeq_jax.language.data.vocabulary import Vocabulary, build, count

FIXTURES = Path(__file__).parents[1] / "fixtures/language"
EXPECTED = json.loads((FIXTURES / "wikitext.json").read_text())
ARRAYS = np.load(FIXTURES / "wikitext.npz")
SPLITS = ("train", "valid", "test")


def wikitext(folder, name="{}.txt"):
    """The fixture's files in a folder, under another name."""
    for split in SPLITS:
        text = (FIXTURES / f"wikitext/{split}.txt").read_bytes()
        (folder / name.format(split)).write_bytes(text)
    return str(folder)


def of_folder(folder, **changes):
    return DataConfig(
        **{"text": "text_folder", "root": str(folder), "vocabulary": "words", **changes}
    )


@pytest.mark.parametrize("name", ["{}.txt", "wiki.{}.tokens"])
def test_words_are_numbered_as_upstream_does(name, tmp_path):
    options = DataConfig(text="wikitext103", root=wikitext(tmp_path, name), vocabulary="words")
    corpus = open_corpus(options)
    assert list(corpus.vocabulary.tokens) == EXPECTED["vocabulary"]
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(corpus, split), ARRAYS[f"{split}_ids"])
        assert getattr(corpus, split).dtype == np.int32


def test_counts_of_words():
    counts = count(texts.read_lines([FIXTURES / "wikitext/train.txt"]), "words")
    words, numbers = EXPECTED["vocabulary"], EXPECTED["counts"]
    assert [counts[word] for word in words] == numbers


def test_rare_words_become_unknown():
    vocabulary = build(["b a b\n", "c b a\n"], "words", min_count=2)
    assert vocabulary.tokens == ("<eos>", "<unk>", "b", "a")
    assert vocabulary.encode("a c d b\n").tolist() == [3, 1, 1, 2, 0]


@pytest.mark.parametrize("kind", ["words", "characters", "bytes"])
def test_texts_come_back(kind):
    text = "Tea — no café\nfor me\n"
    vocabulary = build([text], kind)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.missing(text) == []
    stored = Vocabulary.from_array(kind, vocabulary.to_array())
    assert stored == vocabulary
    assert stored.fingerprint == vocabulary.fingerprint


def test_what_a_vocabulary_lacks():
    words, characters = build(["a b\n"], "words"), build(["ab\n"], "characters")
    assert words.missing("b c\nd c") == ["c", "d"]
    with pytest.raises(ValueError, match=r"'c', which is not in the vocabulary of 3 words.*min_co"):
        words.encode("b c")
    assert characters.missing("abcd") == ["c", "d"]
    np.testing.assert_array_equal(characters.encode("ac"), [characters.encode("a")[0], 0])
    assert build(["a"], "characters").fingerprint != build(["b"], "characters").fingerprint


def test_the_numbers_are_cached_for_this_text_alone(tmp_path, monkeypatch):
    folder, cache = tmp_path / "text", tmp_path / "cache"
    folder.mkdir()
    wikitext(folder)
    options = of_folder(folder, cache=str(cache))
    first = open_corpus(options)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "encode", None)  # would fail if it were called
        again = open_corpus(options)
    assert again.vocabulary == first.vocabulary
    np.testing.assert_array_equal(again.train, first.train)
    (folder / "train.txt").write_text("another text\n")
    (folder / "valid.txt").write_text("text\n")
    (folder / "test.txt").write_text("text\n")
    assert open_corpus(options).vocabulary.tokens == ("<eos>", "another", "text")
    assert len(open_corpus(of_folder(folder, cache=str(cache), min_count=2)).vocabulary) == 2


def test_a_cache_that_cannot_be_written(tmp_path):
    wikitext(tmp_path)
    (tmp_path / "file").write_text("")
    corpus = open_corpus(of_folder(tmp_path, cache=str(tmp_path / "file")))
    np.testing.assert_array_equal(corpus.valid, ARRAYS["valid_ids"])
    (path,) = [p for p in _cached(of_folder(tmp_path)) if p.suffix == ".npz"]
    for content in (b"broken", b"PK\x03\x04", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read .*remove it"):
            open_corpus(of_folder(tmp_path))


def _cached(options):
    open_corpus(options)
    return Path(options.root).glob("mdeq_jax_*")


def test_a_folder_of_any_text_files(tmp_path):
    lines = [f"{i}\n" for i in range(100)]
    (tmp_path / "b.txt").write_text("".join(lines[60:]).removesuffix("\n"))
    (tmp_path / "a.txt").write_bytes("".join(lines[:60]).replace("\n", "\r\n").encode())
    corpus = open_corpus(of_folder(tmp_path, vocabulary="characters"))
    parts = [corpus.vocabulary.decode(part) for part in corpus[1:]]
    assert parts == ["".join(lines[:90]), "".join(lines[90:95]), "".join(lines[95:])]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no train.txt, .*give a folder of text files"),
        ({"train.txt": b"a"}, r"has train.txt but no valid.txt and test.txt"),
        ({"a.txt": b"good\nna\xefve\n"}, r"a.txt, line 2 has the byte 0xef, which is no UTF-8"),
        ({"a.txt": b"a", "b.txt": b""}, r"b.txt is empty"),
    ],
)
def test_folders_that_fail(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=message):
        open_corpus(of_folder(tmp_path))


def test_a_text_that_is_no_utf_8_has_bytes(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"na\xefve\n" * 100)
    corpus = open_corpus(of_folder(tmp_path, vocabulary="bytes"))
    assert bytes(corpus.test.astype(np.uint8)) == b"na\xefve\n" * 5
    assert len(corpus.vocabulary) == 256


def test_wikitext_needs_its_files(tmp_path):
    with pytest.raises(ValueError, match=r"needs a folder of text files; give --config.data.root"):
        open_corpus(DataConfig(text="wikitext103"))
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="WikiText-103 is at https"):
        open_corpus(DataConfig(text="wikitext103", root=str(tmp_path)))


def test_the_text_of_the_standard_library_is_pinned(monkeypatch):
    found = hashlib.sha256(texts.pydoc_text().encode()).hexdigest()
    corpus = open_corpus(DataConfig(sha256=found))
    whole = corpus.vocabulary.decode(np.concatenate(corpus[1:]))
    assert whole == texts.pydoc_text()
    paragraphs = whole.split("\n\n")
    assert len({*paragraphs}) == len(paragraphs) > 1000
    with pytest.raises(ValueError, match=rf"SHA-256 {found}, but config.data.sha256 is 00"):
        open_corpus(DataConfig(sha256="00"))
    monkeypatch.setattr(texts.platform, "python_version", lambda: "3.13.0")
    monkeypatch.setitem(texts.PYDOC_SHA256, "3.13.0", "11")
    with pytest.raises(ValueError, match=rf"set config.data.sha256={found}"):
        open_corpus(DataConfig())
