"""The catalogue of classical optimizers, each with a grid of hyperparameters that is wide enough to be fair."""

from collections.abc import Callable
from typing import NamedTuple

from .. import optimizers
from .._optimizer import AbstractOptimizer
from ..optimizers import Alternating, Anchoring, Extragradient, Halpern, KBeam, OptimisticGradient, SwappedGradient, sgd


class Tunable(NamedTuple):
    """An optimizer to be tuned: `tune(problem, *CLASSICAL["adam"], ...)`.

    - `make`: the optimizer as a function of its hyperparameters.
    - `grid`: the values of each.
    """

    make: Callable[..., AbstractOptimizer]
    grid: dict[str, tuple[float, ...]]


def _rates(*values: float) -> dict[str, tuple[float, ...]]:
    return {"learning_rate": values}


CLASSICAL: dict[str, Tunable] = {
    "sgd": Tunable(sgd, _rates(0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    "momentum": Tunable(optimizers.momentum, _rates(0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "nesterov": Tunable(optimizers.nesterov, _rates(0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "adam": Tunable(optimizers.adam, _rates(1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)),
    "rmsprop": Tunable(optimizers.rmsprop, _rates(1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)),
    "adagrad": Tunable(optimizers.adagrad, _rates(0.003, 0.01, 0.03, 0.1, 0.3, 1.0)),
}
"""Optimizers of one player, with learning rates in half-decades, wide enough for networks initialized near zero."""

_QUARTERS = tuple(round(10 ** (i / 4), 6) for i in range(-16, 1))  # four per decade
_IMPLICIT = (0.01, 0.1, 1.0, 10.0)


def _alternating(learning_rate):
    return Alternating(sgd(learning_rate))


def _halpern(step_size):
    return Halpern(step_size)


def _k_beam(learning_rate):
    return KBeam(learning_rate)


CLASSICAL_FOR_GAMES: dict[str, Tunable] = {
    "gda": Tunable(sgd, _rates(*_QUARTERS)),
    "alternating-gda": Tunable(_alternating, _rates(*_QUARTERS)),
    "ogda": Tunable(OptimisticGradient, _rates(*_QUARTERS)),
    "extragradient": Tunable(Extragradient, {"learning_rate": _QUARTERS[4:], "extrapolation": _QUARTERS[4:]}),
    "anchoring": Tunable(
        Anchoring,
        {
            "learning_rate": (0.1, 1.0, 10.0),
            "power": (0.55, 0.65, 0.75, 0.85, 0.95),
            "anchoring": (1.0, 2.0, 5.0),
        },
    ),
    "k-beam": Tunable(_k_beam, _rates(0.01, 0.03, 0.1, 0.3, 1.0)),
    "halpern": Tunable(_halpern, {"step_size": _IMPLICIT}),
    "swap": Tunable(SwappedGradient, _rates(-0.3, -0.1, -0.06, -0.03, -0.01, 0.01, 0.03, 0.06, 0.1, 0.3)),
}
"""Optimizers of games of two players."""
