"""Named problems, for the command line and for quick starts: a plain table of factories.

Nothing is built, and no data are loaded, before a name is asked for.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .._checks import unknown_name
from .._family import AbstractFamily, AnyFamily, as_family
from .._problem import AbstractProblem
from ..data import Dataset, cifar10, circles, digits, fashion_mnist, mnist, spirals, tiny_imagenet
from ..networks import MLP
from ..problems import Classifier, LogisticRegression, Rastrigin, Rosenbrock, random_quadratic
from ._settings import conv_cifar, conv_mnist, conv_tiny_imagenet, mlp_2d, mlp_deeper, mlp_orig, mlp_relu


class _Entry(NamedTuple):
    description: str
    build: Callable[[], AbstractProblem]


def _logistic_digits() -> LogisticRegression:
    dataset = digits()
    return LogisticRegression(dataset.inputs, dataset.labels, num_classes=dataset.num_classes)


def _small_mnist() -> Dataset:
    # The first 5,000 training images are left for validation.
    return mnist("train").take(slice(5_000, 15_000)).average_pool(2)


def _classifiers(prefix: str, title: str, load: Callable[[], Dataset]) -> dict[str, _Entry]:
    return {
        f"{prefix}-mlp": _Entry(
            f"{title}, MLP 784-20-10 sigmoid (15,910 parameters), batch 128", lambda: Classifier(load(), mlp_orig())
        ),
        f"{prefix}-mlp-relu": _Entry(
            f"{title}, MLP 784-20-10 ReLU (15,910 parameters), batch 128", lambda: Classifier(load(), mlp_relu())
        ),
        f"{prefix}-mlp-deeper": _Entry(
            f"{title}, MLP 784-20-20-10 sigmoid (16,330 parameters), batch 128",
            lambda: Classifier(load(), mlp_deeper()),
        ),
    }


DEFAULT = "digits-mlp"
"""The problem that is taken where none is named: real data, no download."""

_ENTRIES: dict[str, _Entry] = {
    "quadratic": _Entry(
        "quadratic in 10 dimensions, condition number 100, random eigenvectors (fixed seed), deterministic",
        lambda: random_quadratic(jax.random.key(0), dim=10, condition_number=100.0),
    ),
    "rosenbrock": _Entry("Rosenbrock's valley in 2 dimensions, deterministic", Rosenbrock),
    "rastrigin": _Entry("Rastrigin's function in 2 dimensions, many local minima, deterministic", lambda: Rastrigin(2)),
    "logistic-digits": _Entry(
        "logistic regression on the 1,797 digits (650 parameters), strongly convex, deterministic", _logistic_digits
    ),
    "digits-mlp": _Entry(
        "1,797 embedded 8x8 digits, MLP 64-20-10 sigmoid (1,510 parameters), batch 128",
        lambda: Classifier(digits(), MLP()),
    ),
    "circles-mlp": _Entry(
        "1,000 points on two noisy circles, MLP 2-20-2 sigmoid (102 parameters), batch 128",
        lambda: Classifier(circles(), mlp_2d()),
    ),
    "spirals-mlp": _Entry(
        "1,000 points on two spirals, MLP 2-20-2 sigmoid (102 parameters), batch 128",
        lambda: Classifier(spirals(), mlp_2d()),
    ),
    **_classifiers("mnist", "60,000 MNIST digits", mnist),
    "mnist-conv": _Entry(
        "60,000 MNIST digits, 3 convolutions and a linear layer (11,018 parameters), batch 128",
        lambda: Classifier(mnist(), conv_mnist()),
    ),
    **_classifiers("fashion-mnist", "60,000 Fashion-MNIST clothes", fashion_mnist),
    "cifar10-conv": _Entry(
        "CIFAR-10, 3 convolutions and a linear layer (11,162 parameters), batch 128",
        lambda: Classifier(cifar10(), conv_cifar()),
    ),
    "tiny-imagenet-conv": _Entry(
        "50 classes of Tiny ImageNet, 5 convolutions and a linear layer (24,050 parameters), batch 128",
        lambda: Classifier(tiny_imagenet(), conv_tiny_imagenet()),
    ),
    "mnist10k-mlp": _Entry(
        "the first 10,000 MNIST digits, MLP 784-20-10 sigmoid (15,910 parameters), batch 128",
        lambda: Classifier(mnist("train").take(slice(10_000)), mlp_orig()),
    ),
    "mnist14-mlp": _Entry(
        "10,000 MNIST digits pooled to 14x14, MLP 196-20-10 sigmoid (4,150 parameters), batch 128",
        lambda: Classifier(_small_mnist(), mlp_orig()),
    ),
}


def names() -> list[str]:
    """The names that `by_name` knows."""
    return list(_ENTRIES)


def describe(name: str) -> str:
    """One line on a named problem. **Raises** `ValueError` as `by_name` does."""
    return _entry(name).description


def by_name(name: str) -> AbstractProblem:
    """Builds a named problem.

    **Raises** `ValueError` for an unknown name, with the nearest known one; `nestax.data.DataError` if its data are not
    at hand and cannot be downloaded.

    **Example**

    ```python
    >>> from nestax import catalogue
    >>> problem = catalogue.by_name("rosenbrock")
    >>> catalogue.describe("rosenbrock")
    "Rosenbrock's valley in 2 dimensions, deterministic"

    ```
    """
    return _entry(name).build()


def resolve(text: str) -> AnyFamily:
    """What a text stands for: a named problem, or `module:Name`, an object of a module of yours.

    **Arguments:** `text`: a name of `names()`, or `module:Name`, where `module` can be imported (the current folder is
    looked at first), and `Name` is a problem, a family of problems, a class of either that needs no arguments, or a
    function from a PRNG key to a problem. `Name` may have dots.

    **Raises** `ValueError` where there is no such module or object, or the object is none of these.

    **Example**

    ```python
    >>> from nestax import catalogue
    >>> family = catalogue.resolve("nestax.problems:Seesaw.random")

    ```
    """
    if ":" not in text:
        return by_name(text)
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise ValueError(f"'{text}': write `module:Name`, for example `my_problems:WineTasks`.")
    value: Any = _import(module_name, text)
    for part in name.split("."):
        if not hasattr(value, part):
            raise unknown_name(f"name in `{module_name}`", part, [n for n in dir(value) if not n.startswith("_")])
        value = getattr(value, part)
    if isinstance(value, type) and issubclass(value, AbstractProblem | AbstractFamily):
        try:
            value = value()
        except TypeError as error:
            raise ValueError(
                f"'{text}' is a class that needs arguments ({error}). Name an object of it instead: add a line "
                f"`PROBLEM = {name}(...)` to the module and write '{module_name}:PROBLEM'."
            ) from None
    return value if isinstance(value, AbstractProblem) else as_family(value, text)


def _import(name: str, text: str) -> Any:
    here = os.getcwd()
    path, sys.path = sys.path, [here, *sys.path]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there, and needs another one that is not
        raise ValueError(f"'{text}': there is no module `{name}` in {here} or among the installed packages.") from None
    finally:
        sys.path = path


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise unknown_name("problem", name, _ENTRIES)
    return _ENTRIES[name]
