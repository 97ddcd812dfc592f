"""Trained optimizers that come with the package, each with a card that says how it was made and where it fails."""

from pathlib import Path
from typing import Any

from .._checks import unknown_name
from .._storage import read_json
from ._base import AbstractLearnedOptimizer
from ._files import load

_FOLDER = Path(__file__).parent / "zoo"

PRETRAINED: tuple[str, ...] = (
    "rnnprop-small",
    "mixed-momentum",
    "rnnprop-mnist",
    "rnnprop",
    "rnnprop-cl-il",
    "l2o-dm",
    "l2o-dm-cl-il",
    "m-l2o-small",
    "m-l2o-lasso",
    "m-l2o-quadratic",
    "m-l2o-rosenbrock",
    "m-l2o-rastrigin",
    "twin",
)
"""The names of the trained optimizers that come with the package, the default first."""


def pretrained(name: str | None = None) -> AbstractLearnedOptimizer:
    """A trained optimizer that comes with the package: nothing is trained, and nothing downloaded.

    **Arguments:** `name`: one of `PRETRAINED`. Default: the first, whose steps are the cheapest.

    How it was trained, on what, and where it fails stands on its `card`. Far from its training problems it may do
    badly: use it under `nestax.guards.safeguard`. All are for problems of one player but `"twin"`, which is for
    zero-sum games.

    **Raises** `ValueError` for an unknown name, with the nearest one.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.catalogue.by_name("digits-mlp")
    >>> guard = nx.guards.safeguard(nx.learned.pretrained(), nx.optimizers.adam(0.03))
    >>> solution = nx.solve(problem, guard, num_steps=100, key=jax.random.key(0))

    ```
    """
    return load(_path(name, ".safetensors"))


def card(name: str | None = None) -> dict[str, Any]:
    """The card of a trained optimizer: how it was trained, on what, with which seeds, at what cost, where it fails.

    **Arguments:** `name`: as for `pretrained`.

    **Returns** JSON values:

    - `summary`, `fails`: in words, what it is and where it is not to be used.
    - `preset`, `arguments`, `problems`, `training`: what `command` trains.
    - `seeds`: per meta-seed its validation score (lower is better), and `chosen`, the one that is shipped.
    - `cost`: optimizee steps and seconds of one meta-training.
    - `evaluations`: per problem the natural logarithm of the training loss (mean, minimum and maximum over initial
      points) at several steps, of this optimizer and of tuned classical ones, with milliseconds per step. For families,
      which the card calls by the functions of `nestax.problems` that draw from them, each run is on a draw of its own,
      and there is one entry more: adapted to the draw by `nestax.meta.adapt`. Of games: instead the distance to the
      saddle set after so many gradients (median and 90th percentile), the percentage of runs that are solved, and
      gradients per step.
    - `licence`, `version`, `device`.

    **Raises** `ValueError` for an unknown name, with the nearest one.

    **Example**

    ```python
    >>> import nestax as nx
    >>> nx.learned.card()["problems"]
    ['digits-mlp']

    ```
    """
    return read_json(_path(name, ".json"))


def _path(name: str | None, suffix: str) -> Path:
    name = PRETRAINED[0] if name is None else name
    if name not in PRETRAINED:
        raise unknown_name("trained optimizer", name, PRETRAINED)
    return _FOLDER / f"{name}{suffix}"
