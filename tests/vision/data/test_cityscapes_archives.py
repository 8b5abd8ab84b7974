"""The official archives: checked before use, extracted, listed, or handed to TFDS."""

import json

import pytest
from folders import COUNTS, cityscapes_files, write_archives
from invoke import invoke

from mdeq_jax.commands.cityscapes_archives import run
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import eval_batches
from mdeq_jax.vision.data.cityscapes_archives import check_archives, extract, write_lists

IMAGES, LABELS = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"


@pytest.fixture
def folder(tmp_path):
    write_archives(tmp_path / "archives", *cityscapes_files())
    return tmp_path / "archives"


def test_complete_archives(folder):
    assert check_archives(folder, COUNTS) == COUNTS
    assert check_archives(folder, None) == COUNTS


def test_archives_of_other_counts(folder):
    with pytest.raises(ValueError, match=rf"{IMAGES} holds .*'train': 4.*official.*2975"):
        check_archives(folder)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_an_archive_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{folder / name} does not exist; download"):
        check_archives(folder, COUNTS)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_an_archive_is_half_copied(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"{folder / name} is not a complete zip file"):
        check_archives(folder, COUNTS)


def test_an_image_without_label_file(tmp_path):
    images, annotations = cityscapes_files()
    del annotations["gtFine/val/frankfurt/frankfurt_000001_000019_gtFine_labelIds.png"]
    write_archives(tmp_path, images, annotations)
    message = rf"{LABELS} has no label file for 1 images, .*frankfurt_000001_000019_gtFine_labelIds"
    with pytest.raises(ValueError, match=message):
        check_archives(tmp_path, COUNTS)


def test_extracting_gives_what_training_reads(folder, tmp_path):
    extract(folder, tmp_path / "root")
    write_lists(tmp_path / "root")
    data = DataConfig(
        name="cityscapes",
        root=str(tmp_path / "root"),
        eval_batch_size=2,
        image_size=(16, 16),
        eval_image_size=(32, 64),
    )
    (batch,) = eval_batches(data)
    assert batch["mask"].all()
    files = {path.name for path in (tmp_path / "root/cityscapes").rglob("*.*")}
    assert {name.rsplit("_", 1)[1] for name in files} == {"leftImg8bit.png", "labelIds.png"}
    assert len(files) == 2 * sum(COUNTS.values())


def test_lists_are_those_of_the_originals(folder, tmp_path):
    """Their first line of train.lst, and paths in order."""
    extract(folder, tmp_path)
    write_lists(tmp_path)
    lines = (tmp_path / "list/cityscapes/train.lst").read_text().splitlines()
    assert lines[0] == (
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png\t"
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    )
    assert len(lines) == COUNTS["train"]
    assert lines == sorted(lines)
    assert len((tmp_path / "list/cityscapes/val.lst").read_text().splitlines()) == COUNTS["val"]


def test_what_systems_add_is_neither_extracted_nor_listed(tmp_path):
    images, annotations = cityscapes_files()
    city = "leftImg8bit/val/frankfurt"
    name = "frankfurt_000000_000019_leftImg8bit.png"
    for hidden in (f"{city}/._{name}", f"__MACOSX/{city}/._{name}", f"leftImg8bit/val/.x/{name}"):
        images[hidden] = b"of another system"
    write_archives(tmp_path, images, annotations)
    assert check_archives(tmp_path, COUNTS) == COUNTS
    extract(tmp_path, tmp_path / "root")
    assert not [*(tmp_path / "root").rglob("._*"), *(tmp_path / "root").rglob(".x")]
    (tmp_path / "root/cityscapes" / city / f"._{name}").write_bytes(b"of another system")
    write_lists(tmp_path / "root")
    lines = (tmp_path / "root/list/cityscapes/val.lst").read_text().splitlines()
    assert len(lines) == COUNTS["val"]


def test_a_list_that_exists_is_kept(folder, tmp_path):
    extract(folder, tmp_path)
    path = tmp_path / "list/cityscapes/train.lst"
    path.parent.mkdir(parents=True)
    path.write_text("my own\n")
    (note,) = write_lists(tmp_path)
    assert note.startswith(f"kept {path}, which lists 0 of 4 images; delete it")
    assert path.read_text() == "my own\n"
    assert path.with_name("val.lst").exists()


def test_no_lists_without_labels_or_images(folder, tmp_path):
    with pytest.raises(ValueError, match=rf"leftImg8bit/train holds no .*--root={tmp_path}"):
        write_lists(tmp_path)
    extract(folder, tmp_path)
    next((tmp_path / "cityscapes/gtFine/val/frankfurt").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"frankfurt_.*_leftImg8bit\.png has no label file"):
        write_lists(tmp_path)
    assert not (tmp_path / "list/cityscapes/val.lst").exists()


def test_a_damaged_file_in_an_archive(folder, tmp_path):
    content = bytearray((folder / IMAGES).read_bytes())
    content[content.index(b"IDAT") + 50] ^= 1
    (folder / IMAGES).write_bytes(content)
    check_archives(folder, COUNTS)
    with pytest.raises(ValueError, match=r"aachen_000000_000019_leftImg8bit\.png in .* is damaged"):
        extract(folder, tmp_path)


def test_the_command(folder, tmp_path, capsys):
    assert invoke(run, f"--archives={folder}") == 2
    assert "official archive holds" in capsys.readouterr().err
    root = tmp_path / "root"
    assert invoke(run, f"--archives={folder}", "--partial", f"--root={root}") == 0
    counts = {"train": 4, "val": 2, "test": 2}
    assert json.loads(capsys.readouterr().out) == {"images": counts, "notes": []}
    assert (root / "list/cityscapes/train.lst").exists()
    (root / "list/cityscapes/train.lst").unlink()
    assert invoke(run, f"--root={root}") == 0
    assert (root / "list/cityscapes/train.lst").exists()
    assert json.loads(capsys.readouterr().out) == {"notes": []}
    (root / "list/cityscapes/val.lst").write_text("")
    assert invoke(run, f"--root={root}") == 0
    assert "val.lst, which lists 0 of 2 images" in capsys.readouterr().out
    assert invoke(run) == 2
