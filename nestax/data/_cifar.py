"""CIFAR-10 in its binary version: the official archive, or the batch files that are at hand."""

import functools
import json
import lzma
import pathlib
import tarfile
import zlib

import numpy as np
from jaxtyping import Float32, UInt8

from ._dataset import Dataset
from ._fetch import DataError, fetch, places
from ._images import check_split, make_dataset

_ARCHIVE = "cifar-10-binary.tar.gz"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
_FOLDER = "cifar-10-batches-bin"
_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}

_RECORDS = 10_000
"""Images per batch file."""

_RECORD_BYTES = 1 + 3 * 32 * 32
"""One byte for the label, then the red, the green and the blue plane, row by row."""


def cifar10(split: str = "train") -> Dataset:
    """CIFAR-10: 32×32 colour photographs, 50,000 for `"train"` (default), 10,000 for `"test"`.

    Images have the shape (32, 32, 3): height, width, channels. Pixels are divided by 255 and not standardized. Classes:
    airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck. The training images take 0.6 GB in float32; a
    second call returns the same arrays.

    Looked for in `$NESTAX_DATA_DIR/cifar10`, then in the cache; in each place first as `cifar-10-binary.tar.gz`, whose
    checksum is checked, then as the files that this archive holds, `cifar-10-batches-bin/*.bin`, or these compressed,
    `*.bin.xz`. Of these the size and the labels are checked; checksums are published only for the archive. If there is
    neither, the archive is downloaded. Nothing is ever unpacked to disk.

    The five training files may be incomplete: those that are there are used, in order, and the data set **says which**
    in its `name`: `"cifar10/train (batches 1, 2)"` instead of `"cifar10/train"`. Some copies hold images that were
    decoded from JPEG, and list them in `approximate_records.json` beside the folder of the batches: their number stands
    in the name too, `"cifar10/train (81 approximate images)"`.

    **Raises** `ValueError` for another `split`; `DataError` for a missing or damaged file.

    **Source:** A. Krizhevsky, *Learning multiple layers of features from tiny images*, technical report, University of
    Toronto (2009).
    """
    check_split(split)
    return _load(split)


@functools.cache
def _load(split: str) -> Dataset:
    for place in places("cifar10", _ARCHIVE):
        if place.is_file():
            break
        files = _find_batches(place.parent / _FOLDER, split)
        if files:
            approximate = _count_approximate(place.parent / "approximate_records.json", tuple(files))
            return _assemble(split, {name: _read_batch(path) for name, path in files.items()}, approximate)
    archive = fetch("cifar10", _ARCHIVE, _SHA256, _URLS)
    return _assemble(split, {name: _read_member(archive, f"{_FOLDER}/{name}.bin") for name in _BATCHES[split]})


def _find_batches(folder: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
    candidates = ((name, folder / f"{name}{ending}") for name in _BATCHES[split] for ending in (".bin.xz", ".bin"))
    return {name: path for name, path in candidates if path.is_file()}  # the uncompressed one, if both are there


def _read_batch(path: pathlib.Path) -> UInt8[np.ndarray, "num bytes"]:
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            content = file.read(_RECORDS * _RECORD_BYTES + 1)  # one more than there should be
    except (EOFError, lzma.LZMAError) as error:
        raise DataError(f"The file {path} breaks off or is damaged: its xz stream ends with '{error}'.") from error
    return _check_batch(content, str(path))


def _read_member(archive: pathlib.Path, name: str) -> UInt8[np.ndarray, "num bytes"]:
    """A file of the archive, by its exact name, read into memory."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            member = tar.getmember(name)
            file = tar.extractfile(member) if member.isreg() else None
            if file is None:
                raise DataError(f"{name} in the archive {archive} is not a regular file.")
            content = file.read(_RECORDS * _RECORD_BYTES + 1)
    except KeyError as error:
        raise DataError(f"The archive {archive} does not hold {name}.") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"The archive {archive} breaks off or is damaged: {error}.") from error
    return _check_batch(content, f"{name} in {archive}")


def _check_batch(content: bytes, where: str) -> UInt8[np.ndarray, "num bytes"]:
    expected = _RECORDS * _RECORD_BYTES
    if len(content) != expected:
        size = f"{len(content)} bytes" if len(content) < expected else "more bytes"
        raise DataError(
            f"The file {where} holds {size} instead of {expected}, {_RECORDS} images of {_RECORD_BYTES} bytes: it is "
            "damaged, or is not a batch of CIFAR-10's binary version. Replace or delete it."
        )
    records = np.frombuffer(content, np.uint8).reshape(_RECORDS, _RECORD_BYTES)
    if records[:, 0].max() > 9:
        first = int((records[:, 0] > 9).argmax())
        raise DataError(
            f"The file {where} is damaged: image {first} has the label {records[first, 0]}, expected 0, ..., 9. "
            "Replace or delete it."
        )
    return records


def _count_approximate(path: pathlib.Path, batches: tuple[str, ...]) -> int:
    """How many images of these batches a copy says not to be exact."""
    if not path.is_file():
        return 0
    try:
        listed = json.loads(path.read_text())["approximate_records"]
        return sum(len(listed.get(f"{batch}.bin", ())) for batch in batches)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"The file {path} is damaged: {error}. Replace or delete it.") from error


def _assemble(split: str, batches: dict[str, UInt8[np.ndarray, "num bytes"]], approximate: int = 0) -> Dataset:
    notes = []
    if len(batches) < len(_BATCHES[split]):
        numbers = ", ".join(batch.removeprefix("data_batch_") for batch in batches)
        notes.append(f"batch{'es' if len(batches) > 1 else ''} {numbers}")
    if approximate:
        notes.append(f"{approximate} approximate images")
    name = f"cifar10/{split}" + (f" ({', '.join(notes)})" if notes else "")
    records = np.concatenate(list(batches.values()))
    return make_dataset(_images(records), records[:, 0], name, 10)


def _images(records: UInt8[np.ndarray, "num bytes"]) -> Float32[np.ndarray, "num 32 32 3"]:
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.divide(planes.transpose(0, 2, 3, 1), np.float32(255), dtype=np.float32, order="C")
