"""Regression data: the published numbers arrive."""

import numpy as np
import pytest

from nestax import data


def test_diabetes():
    loaded = data.diabetes()
    assert loaded.inputs.shape == (442, 10)
    assert len(loaded) == 442
    np.testing.assert_allclose(loaded.inputs[0], [59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87], rtol=1e-6)
    assert float(loaded.targets[0]) == 151


def test_boston_housing():
    try:
        loaded = data.boston_housing()
    except data.DataError:
        pytest.skip("boston/housing.data is neither in NESTAX_DATA_DIR nor in the cache, and there is no network")
    assert loaded.inputs.shape == (506, 13)
    np.testing.assert_allclose(loaded.inputs[0, :4], [0.00632, 18, 2.31, 0], rtol=1e-6)
    assert float(loaded.targets[0]) == 24.0
    assert float(loaded.targets.mean()) == pytest.approx(22.5328, rel=1e-5)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "boston").mkdir()
    (tmp_path / "boston" / "housing.data").write_text("1 2 3\n")
    monkeypatch.setenv("NESTAX_DATA_DIR", str(tmp_path))
    with pytest.raises(data.DataError, match="damaged"):
        data.boston_housing()


def test_parts_and_their_standardization():
    full = data.diabetes()
    train, rest = full.take(slice(0, 300)), full.take(np.arange(300, 442))
    assert (len(train), len(rest), rest.name) == (300, 142, "diabetes")
    scaled = rest.standardized(train)
    np.testing.assert_allclose(train.standardized().inputs.std(0), 1, rtol=1e-5)
    targets = np.asarray(train.targets, float)
    mean, std = float(targets.mean()), float(targets.std())
    np.testing.assert_allclose(scaled.targets * std + mean, rest.targets, rtol=1e-5)
