"""Named nested problems, with test data to judge them by: a plain table of factories."""

from collections.abc import Callable
from typing import NamedTuple

from .._checks import unknown_name
from ..data import Dataset, digits, mnist
from ..hyperparameters import AbstractHyperparameters, DistilledData, ExampleWeights, WeightDecay
from ..networks import MLP
from ..problems import NestedClassifier


class NamedNested(NamedTuple):
    """A nested problem, and data that neither training nor validation sees."""

    problem: NestedClassifier
    test: Dataset


class _Entry(NamedTuple):
    description: str
    build: Callable[[], NamedNested]


def _parts(dataset: Dataset, num_train: int, num_valid: int) -> tuple[Dataset, Dataset]:
    return dataset.take(slice(num_train)), dataset.take(slice(num_train, num_train + num_valid))


def _digits(num_train: int, num_valid: int, hidden: tuple[int, ...], family: AbstractHyperparameters) -> NamedNested:
    train, valid = _parts(digits(), num_train, num_valid)
    return NamedNested(NestedClassifier(train, valid, MLP(hidden), family), digits().take(slice(1400, 1797)))


def _mnist(num_train: int, num_valid: int, hidden: tuple[int, ...], family: AbstractHyperparameters) -> NamedNested:
    train, valid = _parts(mnist("train"), num_train, num_valid)
    return NamedNested(NestedClassifier(train, valid, MLP(hidden), family), mnist("test"))


_ENTRIES: dict[str, _Entry] = {
    "digits-decay": _Entry(
        "softmax regression on 100 digits, 100 for validation, a decay per weight (650)",
        lambda: _digits(100, 100, (), WeightDecay("weight")),
    ),
    "digits-global-decay": _Entry(
        "the same, with one decay for all weights", lambda: _digits(100, 100, (), WeightDecay("all"))
    ),
    "digits-mlp-decay": _Entry(
        "MLP 64-32-10 on 200 digits, 200 for validation, a decay per weight (2,410)",
        lambda: _digits(200, 200, (32,), WeightDecay("weight")),
    ),
    "digits-example-weights": _Entry(
        "softmax regression on 400 digits, 400 for validation, a weight per training example",
        lambda: _digits(400, 400, (), ExampleWeights()),
    ),
    "digits-distillation": _Entry(
        "softmax regression on 10 learned images, 1,000 digits for validation (640 pixels)",
        lambda: _digits(10, 1000, (), DistilledData()),
    ),
    "mnist-decay": _Entry(
        "softmax regression on 1,000 MNIST images, 1,000 for validation, a decay per weight (7,850)",
        lambda: _mnist(1000, 1000, (), WeightDecay("weight")),
    ),
}


def nested_names() -> tuple[str, ...]:
    """The names that `nested_by_name` knows."""
    return tuple(_ENTRIES)


def describe_nested(name: str) -> str:
    """One line on a named nested problem."""
    return _entry(name).description


def nested_by_name(name: str) -> NamedNested:
    """The nested problem of that name, with test data; `ValueError` with the nearest name otherwise.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import catalogue
    >>> problem, test = catalogue.nested_by_name("digits-decay")
    >>> decay, weights = problem.init(jax.random.key(0))
    >>> len(test), sum(x.size for x in jax.tree.leaves(decay))
    (397, 650)

    ```
    """
    return _entry(name).build()


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise unknown_name("nested problem", name, _ENTRIES)
    return _ENTRIES[name]
