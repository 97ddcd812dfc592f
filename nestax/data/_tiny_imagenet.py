"""Tiny ImageNet: some of its 200 classes, read from the official archive."""

import functools
import io
import pathlib
import zipfile
import zlib

import numpy as np
from jaxtyping import UInt8

from ._dataset import Dataset
from ._fetch import DataError, check_sha256, fetch, places
from ._images import check_split, make_dataset

_ARCHIVE = "tiny-imagenet-200.zip"
_SHA256 = "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"
_URLS = ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",)
_PARTS = {"tiny-imagenet-50-classes.zip": "44c65c04008663ecda3ccdb43fbe59bf6408d6e7085c9f2bb5af2296e17388fb"}
"""Smaller archives in the same layout, with the classes of one draw: `num_classes` of its number, `seed=0`."""

_FOLDER = "tiny-imagenet-200"
_SIZE = 64


def tiny_imagenet(split: str = "train", num_classes: int = 50, seed: int = 0) -> Dataset:
    """Tiny ImageNet: 64×64 colour photographs of `num_classes` of its 200 classes, drawn at random.

    Images have the shape (64, 64, 3): height, width, channels. Pixels are divided by 255 and not standardized; grey
    images, of which there are a few, get three equal channels. Images are ordered by their number within the class and
    then by class, so that every stretch holds all classes evenly. 50 classes are 25,000 training images, 1.2 GB in
    float32; a second call returns the same arrays.

    The archive `tiny-imagenet-200.zip` (248 MB) is found or downloaded by `fetch` into the folder `tiny_imagenet`, and
    read without being unpacked. Where only the part `tiny-imagenet-50-classes.zip` is at hand, the default draw (50
    classes, seed 0) comes from it, with the same arrays, and the `name` says so; other draws need the whole archive.

    **Arguments:**

    - `split`: `"train"` (default), 500 images per class; `"test"`, the 50 published validation images per class, since
      the labels of the published test images are not public.
    - `num_classes`: from 1 to 200. Default 50. With 200 a label is the line in the archive's `wnids.txt`.
    - `seed`: fixes which classes are drawn. Default 0. The same seed gives the same classes in both splits; they are
      numbered in the order of `wnids.txt`.

    **Raises** `ValueError` for arguments outside these ranges; `DataError` for a missing or damaged archive.

    **Source:** Y. Le, X. Yang, *Tiny ImageNet visual recognition challenge*, Stanford CS 231N (2015). With 50 random
    classes: I. Premont-Schwarz, J. Vitku, J. Feyereisl, *A simple guard for learned optimizers*, ICML 2022, which does
    not state which.
    """
    check_split(split)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
        raise ValueError(f"`num_classes` must be an integer of at least 1, got {num_classes!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0, got {seed!r}.")
    return _load(split, int(num_classes), int(seed))


@functools.cache
def _load(split: str, num_classes: int, seed: int) -> Dataset:
    path = _find_part(num_classes, seed) or fetch("tiny_imagenet", _ARCHIVE, _SHA256, _URLS)
    try:
        with zipfile.ZipFile(path) as archive:
            known = _read_text(archive, "wnids.txt").split()
            # a part lists the classes of its draw and no others, in the same order
            classes = _draw_classes(known, num_classes, seed)
            files = _order(_list_images(archive, split), classes, path)
            images = np.stack([_decode(archive.read(file), f"{file} in {path}") for file, _ in files])
    except KeyError as error:  # what `zipfile` raises for a name that is not there
        raise DataError(f"The archive {path} is not the published one: {error.args[0]}.") from error
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"The archive {path} breaks off or is damaged: {error}.") from error
    labels = np.array([label for _, label in files])
    part = "" if path.name == _ARCHIVE else f", {path.name}"
    name = f"tiny_imagenet/{split} ({num_classes} classes, seed {seed}{part})"
    return make_dataset(np.divide(images, np.float32(255), dtype=np.float32), labels, name, num_classes)


def _find_part(num_classes: int, seed: int) -> pathlib.Path | None:
    """A part that holds just this draw, if one is at hand and the whole archive is not."""
    for place in places("tiny_imagenet", _ARCHIVE):
        if place.is_file():
            return None
        for name, sha256 in _PARTS.items():
            part = place.with_name(name)
            if part.is_file() and (name, seed) == (f"tiny-imagenet-{num_classes}-classes.zip", 0):
                return check_sha256(part, sha256)
    return None


def _draw_classes(known: list[str], num: int, seed: int) -> dict[str, int]:
    """The drawn classes and their labels."""
    if num > len(known):
        raise ValueError(f"`num_classes` must be at most {len(known)}, the number of classes there are, got {num}.")
    drawn = np.sort(np.random.default_rng(seed).choice(len(known), num, replace=False))
    return {known[line]: label for label, line in enumerate(drawn)}


def _list_images(archive: zipfile.ZipFile, split: str) -> list[tuple[str, str]]:
    """The name in the archive and the class of every image of the split."""
    if split == "test":
        lines = (line.split("\t") for line in _read_text(archive, "val/val_annotations.txt").splitlines())
        return [(f"{_FOLDER}/val/images/{name}", wnid) for name, wnid, *_ in lines]
    train = f"{_FOLDER}/train/"
    names = (name for name in archive.namelist() if name.startswith(train) and name.endswith(".JPEG"))
    return [(name, name.removeprefix(train).split("/")[0]) for name in names]


def _order(files: list[tuple[str, str]], classes: dict[str, int], path: pathlib.Path) -> list[tuple[str, int]]:
    """The images of the drawn classes and their labels: the first one of every class, the second one, and so on."""
    by_class = {wnid: sorted(file for file, w in files if w == wnid) for wnid in classes}
    for wnid, found in by_class.items():
        if not found:
            raise DataError(f"The archive {path} is not the published one: it holds no images of the class {wnid}.")
    numbered = [(i, label, file) for wnid, label in classes.items() for i, file in enumerate(by_class[wnid])]
    return [(file, label) for _, label, file in sorted(numbered)]


def _read_text(archive: zipfile.ZipFile, name: str) -> str:
    return archive.read(f"{_FOLDER}/{name}").decode()


def _decode(content: bytes, where: str) -> UInt8[np.ndarray, "64 64 3"]:
    from PIL import Image  # here, since `import nestax` needs no image library

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))  # grey images get three equal channels
    except OSError as error:  # what Pillow raises for all that is not an intact image
        raise DataError(f"The image {where} is damaged: {error}.") from error
    if pixels.shape != (_SIZE, _SIZE, 3):
        raise DataError(f"The image {where} has {pixels.shape[1]}×{pixels.shape[0]} pixels instead of {_SIZE}×{_SIZE}.")
    return pixels
