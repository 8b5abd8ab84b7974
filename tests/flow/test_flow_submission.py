"""The files that Sintel and KITTI take."""

import numpy as np
from flow_layouts import make_kitti, make_sintel, random_flow

from mdeq_jax.flow.data.datasets import kitti, sintel
from mdeq_jax.flow.data.formats import read_flow
from mdeq_jax.flow.data.submission import write_kitti_submission, write_sintel_submission


def test_sintel(tmp_path):
    make_sintel(tmp_path)
    records = [*sintel(tmp_path, "test", "clean"), *sintel(tmp_path, "test", "final")]
    flows = ((record.name, random_flow(seed)) for seed, record in enumerate(records))
    paths = write_sintel_submission(tmp_path / "out", flows)
    assert [str(path.relative_to(tmp_path / "out")) for path in paths[:4]] == [
        "clean/alley_1/frame0001.flo",
        "clean/alley_1/frame0002.flo",
        "clean/market_2/frame0001.flo",
        "final/alley_1/frame0001.flo",
    ]
    assert sorted((tmp_path / "out").rglob("*.flo")) == sorted(paths)
    for seed, path in enumerate(paths):
        np.testing.assert_array_equal(read_flow(path).flow, random_flow(seed))


def test_kitti(tmp_path):
    make_kitti(tmp_path)
    flows = [(record.name, random_flow(0)) for record in kitti(tmp_path, "testing")]
    paths = write_kitti_submission(tmp_path / "out", flows)
    assert [path.name for path in paths] == ["000000_10.png", "000001_10.png"]
    assert sorted((tmp_path / "out").iterdir()) == paths
    flow, valid = read_flow(paths[1])
    np.testing.assert_array_equal(flow, random_flow(0))
    assert valid.all()
