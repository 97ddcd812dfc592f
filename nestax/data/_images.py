"""The built-in image data sets: scikit-learn's digits (embedded), MNIST and Fashion-MNIST (downloaded once)."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from ._dataset import Dataset
from ._fetch import DataError, fetch
from ._idx import read_idx


class _File(NamedTuple):
    name: str
    sha256: str


class _Source(NamedTuple):
    mirrors: tuple[str, ...]
    files: dict[str, tuple[_File, _File]]  # split: images, labels


_SOURCES = {
    "mnist": _Source(
        mirrors=(  # byte-identical; the original site often refuses, so it comes last
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        files={
            "train": (
                _File("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                _File("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            ),
            "test": (
                _File("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                _File("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        },
    ),
    "fashion_mnist": _Source(
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        files={
            "train": (
                _File("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                _File("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            ),
            "test": (
                _File("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                _File("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
        },
    ),
}


@functools.cache
def digits() -> Dataset:
    """The 1,797 handwritten digits of scikit-learn: 8×8 pixels, 10 classes. Embedded: no download, no network.

    Pixels are integers from 0 to 16 in the original, here divided by 16. The published order is kept.

    **Source:** E. Alpaydin, C. Kaynak, *Optical recognition of handwritten digits*, UCI repository (1998), test set.
    """
    from sklearn.datasets import load_digits  # here, since importing scikit-learn takes a second

    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, np.float32).reshape(-1, 8, 8) / np.float32(16)
    return make_dataset(images, np.asarray(labels), "digits", 10)


def mnist(split: str = "train") -> Dataset:
    """MNIST: 28×28 grey images of handwritten digits, 60,000 for `"train"` (default), 10,000 for `"test"`.

    Pixels are divided by 255 and not standardized. The files are found or downloaded by `fetch`; a second call returns
    the same arrays.

    **Raises** `ValueError` for another `split`; `DataError` for a missing or damaged file.

    **Source:** Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, *Gradient-based learning applied to document recognition*,
    Proceedings of the IEEE 86 (1998).
    """
    return _load("mnist", split)


def fashion_mnist(split: str = "train") -> Dataset:
    """Fashion-MNIST: 28×28 photographs of clothes, 60,000 for `"train"` (default), 10,000 for `"test"`.

    Everything else is as for `mnist`. Classes: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker,
    bag, ankle boot.

    **Source:** H. Xiao, K. Rasul, R. Vollgraf, *Fashion-MNIST*, arXiv:1708.07747 (2017).
    """
    return _load("fashion_mnist", split)


@functools.cache
def _load(name: str, split: str) -> Dataset:
    check_split(split)
    source = _SOURCES[name]
    images_path, labels_path = (
        fetch(name, file.name, file.sha256, [mirror + file.name for mirror in source.mirrors])
        for file in source.files[split]
    )
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels.")
    return make_dataset(images.astype(np.float32) / np.float32(255), labels, f"{name}/{split}", 10)


def check_split(split: str) -> None:
    """Raises `ValueError` unless `split` is `"train"` or `"test"`."""
    if split not in ("train", "test"):
        raise ValueError(f'`split` must be "train" or "test", got {split!r}.')


def make_dataset(images: np.ndarray, labels: np.ndarray, name: str, num_classes: int) -> Dataset:
    """A `Dataset` whose arrays are concrete even where a loader is called under a transformation."""
    # Results are cached, so a first call under `jax.jit` must not leave tracers in them.
    with jax.ensure_compile_time_eval():
        return Dataset(images, labels.astype(np.int32), name, num_classes)
