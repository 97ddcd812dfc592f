"""What the publication on complex momentum claims about spectra, as predicates on the recipe's metrics."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from .._recipe import Claim, Metrics
from ._search import CERTAIN

PURE = "three pure rotations"
"""The spectrum at gamma_max = 1 with the smallest, a middle and the largest eigenvalue on the imaginary axis."""

_REAL = ("gradient descent", "phase 0", "phase 1")
_TUNED = ("phase 0.125", "phase 0.5", "complex momentum", "extragradient", "optimistic gradient")
_COMPETITIVE = 1.5


def evaluations(rates: Sequence[float], tolerance: float) -> np.ndarray:
    """How many gradient evaluations shrink the distance by the factor `tolerance`, for rates per gradient."""
    return np.array([math.log(tolerance) / math.log(rate) if rate < 1 - CERTAIN else math.inf for rate in rates])


def _ratios(metrics: Metrics, place: str, ours: str, others: Sequence[str]) -> np.ndarray:
    """Evaluations of one method over those of the best of others, per draw; 99 where ours does not converge."""
    rates = metrics["rates"]["half"][place]
    best = np.min([evaluations(rates[name], 0.1) for name in others], axis=0)
    own = evaluations(rates[ours], 0.1)
    return np.array([min(a / b, 99.0) if math.isfinite(a) else 99.0 for a, b in zip(own, best)])


def _cooperative(metrics: Metrics) -> list[str]:
    return [f"{g:g}" for g in metrics["gamma_max"] if g < 0.5]


def _worst_when_cooperative(ours: str, others: Sequence[str]) -> Callable[[Metrics], float]:
    return lambda metrics: round(
        max(float(_ratios(metrics, place, ours, others).max()) for place in _cooperative(metrics)), 4
    )


def _median(place: str, ours: str, others: Sequence[str]) -> Callable[[Metrics], float]:
    return lambda metrics: round(float(np.median(_ratios(metrics, place, ours, others))), 4)


def _worst_median(ours: str, others: Sequence[str], up_to: float = 1.0) -> Callable[[Metrics], float]:
    return lambda metrics: max(_median(f"{g:g}", ours, others)(metrics) for g in metrics["gamma_max"] if g <= up_to)


def _pure(reduce: Callable, names: Sequence[str]) -> Callable[[Metrics], float]:
    """The extreme rate of some methods, minus 1, over draws with pure rotations."""
    return lambda metrics: float(
        f"{reduce(rate for name in names for rate in metrics['rates']['half'][PURE][name]) - 1:.4g}"
    )


def _untied(metrics: Metrics) -> list[float]:
    """At the smallest gamma_max, evaluations with equal steps over those with separate ones, for both methods."""
    names = ("extragradient", "optimistic gradient")
    place = f"{metrics['gamma_max'][0]:g}"
    return [_median(place, f"{name}, tied", (name,))(metrics) for name in names]


def _best_phase(metrics: Metrics) -> float | None:
    """Of the first density, the one of the protocol."""
    row = next(iter(metrics["expected"]["half"].values()))
    known = {phase: value for phase, value in row.items() if value is not None}
    return float(min(known, key=lambda phase: known[phase])) if known else None


def _cost_of_eighth(metrics: Metrics) -> float | None:
    row = next(iter(metrics["expected"]["half"].values()))
    known = [value for value in row.values() if value is not None]
    return round(row["0.125"] / min(known), 4) if known and row["0.125"] is not None else None


def _rotation(real: bool) -> Callable[[Metrics], list[float]]:
    return lambda metrics: [
        round(rate - 1, 8) for phase, rate in metrics["rotation"].items() if (float(phase) in (0, 1)) == real
    ]


_METHODS_OF_THE_FIGURE = (
    "gradient descent",
    "phase 1",
    "phase 0.125",
    "phase 0.5",
    "extragradient",
    "optimistic gradient",
)
_RATIO = "gradient evaluations over those of "

CLAIMS = (
    Claim(
        "S1",
        "While γ_max < 1/2, positive momentum is the fastest of the methods with a fixed phase, extragradient and "
        "optimistic gradient.",
        "qualitative (figure 4.5)",
        _worst_when_cooperative("phase 0", _METHODS_OF_THE_FIGURE),
        lambda value: value <= 1.01,
        "Value: the largest, over draws and γ_max < 1/2, of its " + _RATIO + "the best of the others; at most 1.01.",
    ),
    Claim(
        "S2",
        "While γ_max < 1/2, the phase π/8 comes close to positive momentum.",
        "qualitative (figure 4.5)",
        _worst_when_cooperative("phase 0.125", ("phase 0",)),
        lambda value: value <= _COMPETITIVE,
        "Value: the largest ratio of gradient evaluations; at most 1.5. Gradient descent has 4.1 at γ_max = 0.",
    ),
    Claim(
        "S3",
        "With purely adversarial directions gradient descent, positive and negative momentum do not converge.",
        "qualitative (figure 4.5)",
        _pure(min, _REAL),
        lambda value: value >= -CERTAIN,
        "Value: the lowest of their rates over draws with three pure rotations, minus 1; not below 0.",
    ),
    Claim(
        "S4",
        "With purely adversarial directions complex momentum (phases π/8, π/2, tuned), extragradient and optimistic "
        "gradient converge.",
        "qualitative (figure 4.5)",
        _pure(max, _TUNED),
        lambda value: value < -1e-6,
        "Value: the highest of their rates over draws with three pure rotations, minus 1; below 0.",
    ),
    Claim(
        "S5",
        "For every γ_max complex momentum with a tuned phase competes with extragradient and optimistic gradient.",
        "qualitative (figure 4.5)",
        _worst_median("complex momentum", ("extragradient", "optimistic gradient")),
        lambda value: value <= _COMPETITIVE,
        "Value: the largest over γ_max of its " + _RATIO + "the better of the two, median over draws; at most 1.5.",
    ),
    Claim(
        "S5-0.9",
        "While γ_max is at most 0.9, it is the fastest.",
        "not stated",
        _worst_median("complex momentum", ("extragradient", "optimistic gradient"), up_to=0.9),
        lambda value: value <= 1.01,
        "Value: as S5, over these γ_max; at most 1.01. Real momentum of either sign is a special case of it.",
    ),
    Claim(
        "S5-pure",
        "It is competitive with purely adversarial directions, too.",
        "qualitative (figure 4.5, at γ_max = 1)",
        _median(PURE, "complex momentum", ("extragradient", "optimistic gradient")),
        lambda value: value <= _COMPETITIVE,
        "Value: as S5, for three pure rotations (the smallest, a middle, the largest eigenvalue); at most 1.5.",
    ),
    Claim(
        "S6",
        "In cooperative games extragradient and optimistic gradient need a step of extrapolation of its own size.",
        "figure 4.5 tunes both apart",
        _untied,
        lambda value: min(value) > 2,
        "Value: at the smallest γ_max, gradient evaluations with equal steps over those with separate ones; above 2.",
    ),
    Claim(
        "S7",
        "`nestax.dynamics.suggest` finds the best hyperparameters to within 2 % in the number of steps, for all six "
        "methods and every spectrum.",
        "ours",
        lambda metrics: max(high for _, high in metrics["suggest_excess"].values()),
        lambda value: value <= 0.02,
        "Value: how many more steps it needs than a grid of thousands of points, refined by differential evolution, as "
        "a share; the largest over methods, draws, γ_max and both forms of the game; at most 0.02.",
    ),
    Claim(
        "S8",
        "The phase π/8 minimizes the expected number of gradient evaluations for a random γ_max.",
        "qualitative (figure 4.6)",
        _best_phase,
        lambda value: value == 0.125,
        "Value: the best of the fixed phases, over π. The density is a normal one truncated to [0, 1], whose mean and "
        "deviation are not given; we take 0.75 and 0.15, and show others.",
    ),
    Claim(
        "S8-near",
        "The phase π/8 needs at most a quarter more gradient evaluations in expectation than the best fixed phase.",
        "ours",
        _cost_of_eighth,
        lambda value: value <= 1.25,
        "Value: the ratio, for the density of S8; at most 1.25.",
    ),
    Claim(
        "S9-real",
        "On a pure rotation no learning rate and modulus up to 1 make a real momentum converge.",
        "proved; figure B.2",
        lambda metrics: min(_rotation(True)(metrics)),
        lambda value: value >= -CERTAIN,
        "Value: the smallest spectral radius over phases 0 and π, minus 1; not below 0.",
    ),
    Claim(
        "S9-complex",
        "On a pure rotation every phase in between has a learning rate and modulus up to 1 with which it converges.",
        "proved for two phases; figure B.2",
        lambda metrics: max(_rotation(False)(metrics)),
        lambda value: value < -1e-6,
        "Value: the largest over phases of the smallest spectral radius, minus 1; below 0.",
    ),
)
