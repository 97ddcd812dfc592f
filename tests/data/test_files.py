"""Files: where they are looked for, their checksums, the idx format, and what is said when something is wrong."""

import gzip
import hashlib
import os
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import data
from nestax.data import _images

from .conftest import put as put_file

NAME = "thing"
FILE = "thing.bin"
CONTENT = b"published bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URLS = ["https://first.invalid/thing.bin", "https://second.invalid/thing.bin"]


def put(folder, content=CONTENT, name=NAME, filename=FILE):
    return put_file(folder, content, name, filename)


def fetch():
    return data.fetch(NAME, FILE, SHA256, URLS)


def test_users_folder_comes_first(tmp_path, cache, network, monkeypatch):
    monkeypatch.setenv("NESTAX_DATA_DIR", str(tmp_path / "mine"))
    put(cache)
    mine = put(tmp_path / "mine")
    assert fetch() == mine
    assert network.asked == []


def test_then_the_cache(tmp_path, cache, network, monkeypatch):
    monkeypatch.setenv("NESTAX_DATA_DIR", str(tmp_path / "nowhere"))
    cached = put(cache)
    assert fetch() == cached
    assert network.asked == []


def test_then_the_network_mirror_by_mirror_and_only_once(cache, network):
    network.answers[URLS[1]] = CONTENT
    path = fetch()
    assert path == cache / NAME / FILE
    assert path.read_bytes() == CONTENT
    assert network.asked == URLS
    assert fetch() == path
    assert network.asked == URLS
    assert os.listdir(path.parent) == [FILE]  # no temporary file is left


def test_wrong_bytes_from_a_mirror_are_not_kept(cache, network):
    network.answers[URLS[0]] = b"a login page"
    network.answers[URLS[1]] = CONTENT
    assert fetch().read_bytes() == CONTENT
    assert network.asked == URLS


def test_wrong_bytes_from_every_mirror(cache, network):
    network.answers.update(dict.fromkeys(URLS, b"a login page"))
    with pytest.raises(data.DataError, match="could not be downloaded"):
        fetch()
    assert not (cache / NAME / FILE).exists()


def test_missing_without_network(cache, network):
    with pytest.raises(data.DataError) as info:
        fetch()
    message = str(info.value)
    assert f"{NAME}/{FILE}" in message
    assert SHA256 in message
    assert all(url in message for url in URLS)
    assert "no network in tests" in message
    assert str(cache / NAME / FILE) in message
    assert f"$NESTAX_DATA_DIR/{NAME}/{FILE}" in message
    assert isinstance(info.value, OSError)


def test_a_data_dir_that_points_nowhere_is_mentioned(tmp_path, cache, network, monkeypatch):
    nowhere = tmp_path / "nowhere"
    monkeypatch.setenv("NESTAX_DATA_DIR", str(nowhere))
    with pytest.raises(data.DataError) as info:
        fetch()
    assert f"NESTAX_DATA_DIR={nowhere} is not a folder" in str(info.value)
    assert str(nowhere / NAME / FILE) in str(info.value)
    assert str(cache / NAME / FILE) in str(info.value)


@pytest.mark.parametrize("where", ["mine", "cache"])
def test_a_damaged_file_is_neither_used_nor_touched(where, tmp_path, cache, network, monkeypatch):
    monkeypatch.setenv("NESTAX_DATA_DIR", str(tmp_path / "mine"))
    network.answers[URLS[0]] = CONTENT
    damaged = put(tmp_path / where, CONTENT[:-1])
    with pytest.raises(data.DataError, match="damaged") as info:
        fetch()
    assert str(damaged) in str(info.value)
    assert SHA256 in str(info.value)
    assert hashlib.sha256(CONTENT[:-1]).hexdigest() in str(info.value)
    assert damaged.read_bytes() == CONTENT[:-1]
    assert network.asked == []


def idx(array, magic=None):
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{array.ndim + 1}i", magic, *array.shape) + array.tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content))
    return path


IMAGES = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2) * 20
LABELS = np.array([7, 0, 9], np.uint8)


def test_idx(tmp_path):
    np.testing.assert_array_equal(data.read_idx(write(tmp_path / "images.gz", idx(IMAGES)), 3), IMAGES)
    np.testing.assert_array_equal(data.read_idx(write(tmp_path / "labels.gz", idx(LABELS)), 1), LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(IMAGES)[:-1], r"states the shape \(3, 2, 2\), but 11 bytes follow"),
        (idx(IMAGES) + b"x", "but 13 bytes follow"),
        (idx(IMAGES)[:10], "breaks off in its header: 10 bytes of 16"),
        (idx(IMAGES, magic=2049), "its magic number is 2049, expected 2051"),
        (struct.pack(">4i", 2051, -3, -4, 1) + bytes(12), "states the shape"),
        (b"", "breaks off in its header: 0 bytes"),
    ],
)
def test_bad_idx(tmp_path, content, message):
    path = write(tmp_path / "bad.gz", content)
    with pytest.raises(data.DataError, match=message) as info:
        data.read_idx(path, 3)
    assert str(path) in str(info.value)


def test_bad_gzip(tmp_path):
    path = tmp_path / "bad.gz"
    whole = gzip.compress(idx(IMAGES))
    for content, message in [
        (whole[:-6], "breaks off"),
        (idx(IMAGES), "not an intact gzip file"),
        (whole[:12] + b"\xff\xff\xff" + whole[15:], "damaged"),
        (whole[:-8] + b"\0\0\0\0" + whole[-4:], "not an intact gzip file: CRC"),
    ]:
        path.write_bytes(content)
        with pytest.raises(data.DataError, match=message):
            data.read_idx(path, 3)
    with pytest.raises(data.DataError, match="There is no file"):
        data.read_idx(tmp_path / "absent.gz", 3)


@pytest.fixture
def tiny_mnist(tmp_path, cache, network, monkeypatch):
    """A published MNIST of three images; returns the function that publishes another one."""
    _images._load.cache_clear()

    def publish(images=IMAGES, labels=LABELS):
        files = []
        for name, array in {"images.gz": images, "labels.gz": labels}.items():
            content = gzip.compress(idx(array))
            put(tmp_path / "mine", content, "mnist", name)
            files.append(_images._File(name, hashlib.sha256(content).hexdigest()))
        monkeypatch.setitem(_images._SOURCES, "mnist", _images._Source(tuple(URLS), {"train": tuple(files)}))

    monkeypatch.setenv("NESTAX_DATA_DIR", str(tmp_path / "mine"))
    publish()
    yield publish
    _images._load.cache_clear()


def test_loading(tiny_mnist, tmp_path):
    dataset = data.mnist()
    assert dataset.name == "mnist/train"
    assert dataset.input_shape == (2, 2)
    assert dataset.num_classes == 10
    assert dataset.inputs.dtype == jnp.float32
    np.testing.assert_array_equal(dataset.images, IMAGES.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(dataset.labels, LABELS)
    put(tmp_path / "mine", b"", "mnist", "images.gz")
    assert data.mnist("train") is dataset  # not read again


def test_loading_under_jit_leaves_no_tracer_behind(tiny_mnist):
    jax.jit(lambda: data.mnist().inputs.sum())()
    assert float(data.mnist().inputs.sum()) == pytest.approx(IMAGES.sum() / 255)


def test_counts_must_agree(tiny_mnist):
    tiny_mnist(labels=LABELS[:2])
    with pytest.raises(data.DataError, match=r"holds 3 images, but .* holds 2 labels"):
        data.mnist()


def test_damaged_images(tiny_mnist, tmp_path):
    put(tmp_path / "mine", b"", "mnist", "images.gz")
    with pytest.raises(data.DataError, match=r"images\.gz is damaged"):
        data.mnist()


def test_unknown_split(cache):
    with pytest.raises(ValueError, match='must be "train" or "test", got \'validation\''):
        data.fashion_mnist("validation")


def test_every_file_has_a_checksum_and_two_mirrors():
    for source in _images._SOURCES.values():
        assert len(source.mirrors) >= 2
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in source.mirrors)
        files = [file for pair in source.files.values() for file in pair]
        assert len({file.sha256 for file in files}) == 4
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in files)


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.skipif("NESTAX_DATA_DIR" not in os.environ, reason="needs the real files, in NESTAX_DATA_DIR")
@pytest.mark.parametrize(
    ("load", "split", "histogram", "first"),
    [
        ("mnist", "train", MNIST_TRAIN, [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]),
        ("mnist", "test", MNIST_TEST, [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
        ("fashion_mnist", "train", [6000] * 10, [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]),
        ("fashion_mnist", "test", [1000] * 10, [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
    ],
)
def test_real_files(load, split, histogram, first, network):
    dataset = getattr(data, load)(split)
    assert dataset.input_shape == (28, 28)
    assert len(dataset) == sum(histogram)
    np.testing.assert_array_equal(np.bincount(dataset.labels), histogram)
    np.testing.assert_array_equal(dataset.labels[:10], first)
    assert float(dataset.inputs.min()) == 0
    assert float(dataset.inputs.max()) == 1
    assert network.asked == []
