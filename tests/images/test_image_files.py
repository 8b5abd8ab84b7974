"""Which images are found, and under which names."""

from pathlib import Path

import pytest

from mdeq_jax.images.files import find_images


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_with_all_below_in_order(tmp_path):
    make_files(tmp_path, "b/2.png", "b/10.jpg", "a.PNG", "notes.txt", ".hidden.png")
    found = find_images([str(tmp_path)], Path("out"))
    assert list(found) == ["a", "b/10", "b/2"]
    assert found["b/10"] == tmp_path / "b/10.jpg"


def test_what_systems_add_is_not_predicted(tmp_path):
    hidden = (".thumbs/x.png", "b/.thumbs/deep/x.png", "__MACOSX/._a.png", "b/._1.png")
    make_files(tmp_path, "a.png", "b/1.webp", "b/2.ppm", "c.png/1.jpg", *hidden)
    assert list(find_images([str(tmp_path)], Path("out"))) == ["a", "b/1", "b/2", "c.png/1"]


def test_a_folder_that_is_itself_hidden(tmp_path):
    make_files(tmp_path, ".cache/a.png")
    assert list(find_images([str(tmp_path / ".cache")], Path("out"))) == ["a"]


def test_images_by_name(tmp_path):
    make_files(tmp_path, "b/2.png", "x/1.data", "c/3.png")
    sources = [str(tmp_path / "b/2.png"), str(tmp_path / "x/1.data"), str(tmp_path / "c")]
    assert list(find_images(sources, Path("out"))) == ["2", "1", "3"]


@pytest.mark.parametrize(
    ("sources", "output", "message"),
    [
        (["gone.png"], "out", "gone.png does not exist; --input takes images and folders"),
        (["empty"], "out", "empty holds no image .*put images there"),
        (["twins"], "out", "twins holds images that differ by their suffix"),
        (["a/1.png", "b"], "out", r"b/1.jpg and .*a/1.png would have .* '1'"),
        (["a"], "a/out", "out lies in .*; use another --output"),
    ],
)
def test_inputs_that_are_refused(tmp_path, sources, output, message):
    make_files(tmp_path, "a/1.png", "b/1.jpg", "twins/x.png", "twins/x.jpg", "empty/readme")
    with pytest.raises(ValueError, match=message):
        find_images([str(tmp_path / source) for source in sources], tmp_path / output)
