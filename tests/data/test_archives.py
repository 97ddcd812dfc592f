"""CIFAR-10 and Tiny ImageNet, from small archives that are made here, and from the real files where they are."""

import hashlib
import io
import lzma
import os
import pathlib
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from nestax import data
from nestax.data import _cifar, _tiny_imagenet

from .conftest import put

NUM = 4  # images per batch here
FOLDER = "cifar10/cifar-10-batches-bin"


def batch(seed):
    """Labels, images and the bytes of a batch."""
    rng = np.random.default_rng(seed)
    labels, images = rng.integers(0, 10, NUM, np.uint8), rng.integers(0, 256, (NUM, 32, 32, 3), np.uint8)
    # record by record: the label, then plane by plane
    content = b"".join(bytes([y]) + b"".join(x[:, :, c].tobytes() for c in range(3)) for y, x in zip(labels, images))
    return labels, images, content


@pytest.fixture
def mine(tmp_path, cache, network, monkeypatch):
    """The user's folder; batches have few images."""
    monkeypatch.setenv("NESTAX_DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setattr(_cifar, "_RECORDS", NUM)
    for loader in (_cifar, _tiny_imagenet):
        loader._load.cache_clear()
    yield tmp_path / "mine"
    for loader in (_cifar, _tiny_imagenet):
        loader._load.cache_clear()


def check_cifar(dataset, name, seeds):
    assert dataset.name == name
    assert (dataset.input_shape, dataset.num_classes) == ((32, 32, 3), 10)
    labels, images = (np.concatenate([batch(seed)[i] for seed in seeds]) for i in (0, 1))
    np.testing.assert_array_equal(dataset.labels, labels)
    np.testing.assert_array_equal(dataset.images, images.astype(np.float32) / np.float32(255))


def test_batches_that_are_there(mine, network):
    put(mine, lzma.compress(batch(2)[2]), FOLDER, "data_batch_2.bin.xz")
    put(mine, batch(4)[2], FOLDER, "data_batch_4.bin")
    put(mine, batch(0)[2], FOLDER, "test_batch.bin")
    check_cifar(data.cifar10(), "cifar10/train (batches 2, 4)", [2, 4])
    check_cifar(data.cifar10("test"), "cifar10/test", [0])
    assert data.cifar10("train") is data.cifar10()
    assert network.asked == []


def test_approximate_images_are_said(mine):
    put(mine, batch(2)[2], FOLDER, "data_batch_2.bin")
    put(mine, batch(0)[2], FOLDER, "test_batch.bin")
    listed = b'{"approximate_records": {"data_batch_1.bin": [7], "data_batch_2.bin": [1, 2]}}'
    path = put(mine, listed, "cifar10", "approximate_records.json")
    check_cifar(data.cifar10(), "cifar10/train (batch 2, 2 approximate images)", [2])
    check_cifar(data.cifar10("test"), "cifar10/test", [0])
    _cifar._load.cache_clear()
    path.write_text('{"approximate_records": [1]}')
    with pytest.raises(data.DataError, match=r"approximate_records.json is damaged"):
        data.cifar10()


def test_one_batch_and_all_batches(mine, cache):
    put(cache, batch(1)[2], FOLDER, "data_batch_1.bin")
    check_cifar(data.cifar10(), "cifar10/train (batch 1)", [1])
    _cifar._load.cache_clear()
    for i in range(1, 6):
        put(mine, batch(i)[2], FOLDER, f"data_batch_{i}.bin")  # the user's folder comes before the cache
    put(mine, b"not looked at", FOLDER, "data_batch_3.bin.xz")  # the uncompressed file comes first
    check_cifar(data.cifar10(), "cifar10/train", [1, 2, 3, 4, 5])


def write_tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return file.getvalue()


OFFICIAL = {f"cifar-10-batches-bin/data_batch_{i}.bin": batch(i)[2] for i in range(1, 6)}
OFFICIAL["cifar-10-batches-bin/test_batch.bin"] = batch(0)[2]


def publish(monkeypatch, loader, content):
    monkeypatch.setattr(loader, "_SHA256", hashlib.sha256(content).hexdigest())
    return content


def test_official_archive_is_downloaded_and_not_unpacked(mine, cache, network, monkeypatch):
    extra = {"../outside.bin": b"x", "/outside.bin": b"x"}
    network.answers[_cifar._URLS[0]] = publish(monkeypatch, _cifar, write_tar(OFFICIAL | extra))
    check_cifar(data.cifar10(), "cifar10/train", [1, 2, 3, 4, 5])
    check_cifar(data.cifar10("test"), "cifar10/test", [0])
    assert network.asked == list(_cifar._URLS)
    assert [path.name for path in cache.parent.rglob("*") if path.is_file()] == ["cifar-10-binary.tar.gz"]


def test_damaged_archive_of_cifar(mine, monkeypatch):
    whole = write_tar(OFFICIAL)
    for content, message in [
        (write_tar({}), "does not hold cifar-10-batches-bin/data_batch_1.bin"),
        (write_tar(OFFICIAL | {"cifar-10-batches-bin/data_batch_2.bin": None}), "is not a regular file"),
        (write_tar(OFFICIAL | {"cifar-10-batches-bin/data_batch_3.bin": b"short"}), "data_batch_3.bin in .* 5 bytes"),
        (whole[: len(whole) // 2], "breaks off or is damaged"),
        (b"not an archive", "breaks off or is damaged"),
    ]:
        put(mine, publish(monkeypatch, _cifar, content), "cifar10", "cifar-10-binary.tar.gz")
        with pytest.raises(data.DataError, match=message):
            data.cifar10()
    put(mine, whole, "cifar10", "cifar-10-binary.tar.gz")
    with pytest.raises(data.DataError, match="Expected SHA-256"):
        data.cifar10()


def test_damaged_batches(mine):
    content = batch(1)[2]
    packed = lzma.compress(content)
    for name, damaged, message in [
        ("data_batch_1.bin", content[:-1], f"holds {NUM * 3073 - 1} bytes instead of {NUM * 3073}"),
        ("data_batch_1.bin", content + b"x", "holds more bytes instead of"),
        ("data_batch_1.bin", content[:3073] + b"\x0a" + content[3074:], "image 1 has the label 10"),
        ("data_batch_2.bin.xz", packed[:-20], "breaks off or is damaged"),
        ("data_batch_2.bin.xz", packed[:500] + b"\0\0\0\0" + packed[504:], "breaks off or is damaged"),
        ("data_batch_2.bin.xz", content, "breaks off or is damaged"),
    ]:
        path = put(mine, damaged, FOLDER, name)
        with pytest.raises(data.DataError, match=message) as info:
            data.cifar10()
        assert str(path) in str(info.value)
        path.unlink()


WNIDS = ["n05", "n03", "n08", "n01"]
COLOURS = {wnid: tuple(60 * i + c for c in (10, 20, 30)) for i, wnid in enumerate(WNIDS)}


def jpeg(colour, size=64, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (size, size), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def zip_members():
    """Two training images and one validation image per class, each of one colour; the second ones of n03 are grey."""
    members: dict[str, str | bytes] = {"wnids.txt": "\n".join(WNIDS) + "\n"}
    for wnid in WNIDS:
        members[f"train/{wnid}/images/{wnid}_1.JPEG"] = jpeg(100, mode="L") if wnid == "n03" else jpeg(COLOURS[wnid])
        members[f"train/{wnid}/images/{wnid}_0.JPEG"] = jpeg(COLOURS[wnid])
        members[f"train/{wnid}/{wnid}_boxes.txt"] = ""
    for i, wnid in enumerate(reversed(WNIDS)):
        members[f"val/images/val_{i}.JPEG"] = jpeg(COLOURS[wnid])
    members["val/val_annotations.txt"] = "".join(
        f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n" for i, wnid in enumerate(reversed(WNIDS))
    )
    return members


def write_zip(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    return file.getvalue()


@pytest.fixture
def tiny(mine, monkeypatch):
    """The function that publishes a small Tiny ImageNet with some members changed, or any bytes."""

    def make(changed=None, content=None):
        content = write_zip(zip_members() | (changed or {})) if content is None else content
        return put(mine, publish(monkeypatch, _tiny_imagenet, content), "tiny_imagenet", "tiny-imagenet-200.zip")

    make()
    return make


def means(dataset):
    return np.asarray(dataset.images, np.float64).mean(axis=(1, 2)) * 255


def test_tiny_imagenet(tiny):
    dataset = data.tiny_imagenet(num_classes=4)
    assert dataset.name == "tiny_imagenet/train (4 classes, seed 0)"
    assert (dataset.input_shape, dataset.num_classes, len(dataset)) == ((64, 64, 3), 4, 8)
    np.testing.assert_array_equal(dataset.labels, [0, 1, 2, 3, 0, 1, 2, 3])  # the first of every class, then the second
    expected = [COLOURS[wnid] for wnid in WNIDS] * 2
    expected[5] = (100, 100, 100)
    np.testing.assert_allclose(means(dataset), expected, atol=4)  # JPEG is not exact
    test = data.tiny_imagenet("test", num_classes=4)
    np.testing.assert_array_equal(test.labels, [0, 1, 2, 3])
    np.testing.assert_allclose(means(test), [COLOURS[wnid] for wnid in WNIDS], atol=4)


def test_a_part_of_tiny_imagenet_gives_its_one_draw(tiny, mine, monkeypatch):
    whole = data.tiny_imagenet(num_classes=2)
    (mine / "tiny_imagenet" / "tiny-imagenet-200.zip").unlink()
    drawn = [WNIDS[i] for i in sorted(np.random.default_rng(0).choice(len(WNIDS), 2, replace=False))]
    of_drawn = {name: content for name, content in zip_members().items() if any(wnid in name for wnid in drawn)}
    annotations = str(zip_members()["val/val_annotations.txt"]).splitlines(keepends=True)
    kept = "".join(line for line in annotations if line.split("\t")[1] in drawn)
    images = {k: v for k, v in zip_members().items() if k.startswith("val/images")}
    lists = {"wnids.txt": "\n".join(drawn), "val/val_annotations.txt": kept}
    content = write_zip(of_drawn | images | lists)
    name = "tiny-imagenet-2-classes.zip"
    path = put(mine, content, "tiny_imagenet", name)
    monkeypatch.setattr(_tiny_imagenet, "_PARTS", {name: hashlib.sha256(content).hexdigest()})
    _tiny_imagenet._load.cache_clear()
    part = data.tiny_imagenet(num_classes=2)
    assert part.name == f"tiny_imagenet/train (2 classes, seed 0, {name})"
    np.testing.assert_array_equal(part.images, whole.images)
    np.testing.assert_array_equal(part.labels, whole.labels)
    assert len(data.tiny_imagenet("test", num_classes=2)) == 2
    for num_classes, seed in ((2, 1), (3, 0)):  # not a draw from all classes
        with pytest.raises(data.DataError, match=r"tiny-imagenet-200.zip was not found"):
            data.tiny_imagenet(num_classes=num_classes, seed=seed)
    _tiny_imagenet._load.cache_clear()
    path.write_bytes(content[:-1])
    with pytest.raises(data.DataError, match="is damaged"):
        data.tiny_imagenet(num_classes=2)


def test_classes_are_drawn_by_seed(tiny):
    drawn = set()
    for seed in range(8):
        train, test = (data.tiny_imagenet(split, num_classes=2, seed=seed) for split in ("train", "test"))
        assert (train.num_classes, len(train), len(test)) == (2, 4, 2)
        np.testing.assert_allclose(means(test), means(train)[:2], atol=4)  # the same classes in both splits
        lines = [int(red) // 60 for red in means(test)[:, 0]]
        assert lines == sorted(lines)
        drawn.add(tuple(lines))
    assert len(drawn) > 2
    assert data.tiny_imagenet("train", 2, seed=7) is data.tiny_imagenet(num_classes=2, seed=7)


def test_damaged_tiny_imagenet(tiny):
    whole = write_zip(zip_members())
    image = "train/n05/images/n05_0.JPEG"
    stored = whole.index(jpeg(COLOURS["n05"]))
    for changed, content, message in [
        ({image: jpeg(0)[:-200]}, None, f"{image} in .* is damaged"),
        ({image: b"no image"}, None, f"{image} in .* is damaged"),
        ({image: jpeg(0, size=32)}, None, "has 32×32 pixels instead of 64×64"),
        ({"wnids.txt": "\n".join([*WNIDS[:3], "n99"])}, None, "holds no images of the class n99"),
        (None, write_zip({}), "not the published one.*no item named 'tiny-imagenet-200/wnids.txt'"),
        (None, whole[: len(whole) // 2], "breaks off or is damaged"),
        (None, whole[: stored + 300] + b"####" + whole[stored + 304 :], "breaks off or is damaged"),
    ]:
        path = tiny(changed, content)
        with pytest.raises(data.DataError, match=message) as info:
            data.tiny_imagenet(num_classes=4)
        assert str(path) in str(info.value)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: data.cifar10("val"), '`split` must be "train" or "test", got \'val\''),
        (lambda: data.tiny_imagenet("val"), "`split` must be"),
        (lambda: data.tiny_imagenet(num_classes=0), "`num_classes` must be an integer of at least 1, got 0"),
        (lambda: data.tiny_imagenet(num_classes=5), "`num_classes` must be at most 4"),
        (lambda: data.tiny_imagenet(num_classes=4, seed=-1), "`seed` must be an integer of at least 0, got -1"),
    ],
)
def test_refuses(tiny, load, message):
    with pytest.raises(ValueError, match=message):
        load()


@pytest.mark.skipif(
    not pathlib.Path(os.environ.get("NESTAX_DATA_DIR", "."), FOLDER).is_dir(), reason="needs the real CIFAR-10"
)
def test_real_cifar10(network):
    dataset = data.cifar10("test")
    np.testing.assert_array_equal(np.bincount(dataset.labels), [1_000] * 10)
    np.testing.assert_array_equal(dataset.labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])
    # published means of the channels of the training set; the test set is drawn from the same photographs
    np.testing.assert_allclose(means(dataset).mean(axis=0), [125.3, 123.0, 113.9], atol=2)
    assert network.asked == []
