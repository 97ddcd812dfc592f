"""First-order methods between minimization and adversarial games: the best rates, and which phase to choose."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import dynamics, problems
from .. import Recipe, Results, Trial, lines, markdown
from .._claims import Metrics, above, at, at_least, at_most, below, claims, equal, measured
from ._common import CERTAIN, polar

RIVALS = ("extragradient", "optimistic gradient")
PURE = "three pure rotations"
"""The spectrum at gamma_max = 1 with the smallest, a middle and the largest eigenvalue on the imaginary axis."""

FORMS = {"half": "curvatures a (1 - γ)", "as printed": "curvatures 2 a (1 - γ), as printed"}
_RANGE = math.log(1e-8)  # how far below the grid step sizes and 1 - |β| may go


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of the figures."""

    gamma_max: tuple[float, ...]  # from cooperative (0) to partly adversarial (1)
    num_draws: int  # random spectra; not given
    num_draws_as_printed: int  # of these, how many also with the printed formula, where curvatures are twice as large
    phases: tuple[float, ...]  # fixed phases of the momentum, over π
    dim: int = 20  # eigenvalue pairs; not given
    tolerance: float = 1e-5  # of the distance, for numbers of gradient evaluations; it cancels in all comparisons
    num_iterations: int = 400  # of the fine search
    suggest: bool = True  # whether to check `nestax.dynamics.suggest` on every spectrum
    # mean and deviation of the truncated normal density of gamma_max: our choice, then others
    densities: tuple[tuple[float, float], ...] = ((0.75, 0.15), (0.25, 0.15), (0.5, 0.15), (0.9, 0.15), (0.5, 0.5))


def _momentum(point, values, phase):
    return dynamics.momentum_rate(values, jnp.exp(point[0]), polar(-jnp.expm1(point[1]), phase))


def _logs(low: float, high: float, num: int) -> np.ndarray:
    return np.linspace(math.log(low), math.log(high), num)


_STEP, _GAP = _logs(1e-4, 4.5, 70), _logs(1e-3, 1.0, 40)  # of momentum: logarithms of the step size and of 1 - |β|
# Rate, grid, gradients per step. Coordinates are logarithms of step sizes in units of the inverse largest eigenvalue.
_ANY_PHASE, _GRADIENT, _EXTRAGRADIENT, _OPTIMISTIC = (
    lambda point, values: _momentum(point, values, point[2]),
    lambda point, values: dynamics.gradient_rate(values, jnp.exp(point[0])),
    lambda point, values: dynamics.extragradient_rate(values, jnp.exp(point[0]), jnp.exp(point[-1])),
    lambda point, values: dynamics.optimistic_rate(values, jnp.exp(point[0]), jnp.exp(point[-1])),
)
_TUNED: dict[str, tuple[Callable, tuple[np.ndarray, ...], int]] = {
    "gradient descent": (_GRADIENT, (_logs(1e-4, 2.2, 400),), 1),
    "extragradient": (_EXTRAGRADIENT, (_logs(1e-4, 10.0, 120), _logs(1e-3, 2.0, 80)), 2),
    "extragradient, tied": (_EXTRAGRADIENT, (_logs(1e-4, 2.0, 400),), 2),
    "optimistic gradient": (_OPTIMISTIC, (_logs(1e-4, 4.0, 120), _logs(1e-4, 2.0, 100)), 1),
    "optimistic gradient, tied": (_OPTIMISTIC, (_logs(1e-4, 2.0, 400),), 1),
}
_SUGGESTED = {"momentum": "phase 0", "negative momentum": "phase 1"}  # in `suggest`, and here


def _best(rate: Callable, values: np.ndarray, axes: Sequence[np.ndarray], *arguments: np.ndarray, **how: Any):
    bounds = [(axis[0] if axis[0] >= 0 else _RANGE, axis[-1]) for axis in axes]
    return dynamics.minimize_rate(rate, values, axes, bounds, *arguments, **how)


def best_rates(eigenvalues: np.ndarray, phases: Sequence[float], **how: Any) -> dict[str, float]:
    """The best rate per gradient of every method, and of momentum with each of the fixed phases (over π)."""
    values = eigenvalues / np.max(np.abs(eigenvalues))
    out = {name: _best(rate, values, axes, **how)[0] ** (1 / num) for name, (rate, axes, num) in _TUNED.items()}
    known = []
    for turn in (math.pi * phase for phase in phases):
        out[f"phase {turn / math.pi:g}"], point = _best(_momentum, values, (_STEP, _GAP), np.array(turn), **how)
        known.append(np.append(point, turn))
    axes = (_STEP[::2], _GAP[::2], np.linspace(0, math.pi, 25))
    out["complex momentum"] = _best(_ANY_PHASE, values, axes, known=known, **how)[0]
    return out


def excess(eigenvalues: np.ndarray, rates: dict[str, float]) -> dict[str, float]:
    """How many more steps the suggested hyperparameters need than those of the fine search, as a share; negative where
    the suggestion is better. Methods that do not converge either way are left out."""
    out = {}
    for entry in dynamics.suggest_from_eigenvalues(eigenvalues):
        fine, ours = rates[_SUGGESTED.get(entry.method, entry.method)], entry.rate_per_gradient
        if max(fine, ours) < 1 - CERTAIN:
            out[entry.method] = math.log(fine) / math.log(ours) - 1
        elif min(fine, ours) < 1 - CERTAIN:
            out[entry.method] = math.copysign(1.0, ours - fine)
    return out


def spectrum(protocol: Protocol, draw: int, gamma_max: float | None, half: bool) -> np.ndarray:
    """Eigenvalues in the upper half plane; without `gamma_max` those with pure rotations."""
    key = jax.random.fold_in(jax.random.key(0), draw)
    game = problems.random_interpolated_game(key, 1.0 if gamma_max is None else gamma_max, dim=protocol.dim, half=half)
    if gamma_max is None:
        places = np.array([0, protocol.dim // 2, protocol.dim - 1])
        game = problems.InterpolatedGame(game.gamma.at[places].set(1.0), half=half)
    return np.asarray(game.eigenvalues())[: protocol.dim]


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    places = {f"{g:g}": g for g in protocol.gamma_max} | {PURE: None}
    out: dict[str, dict[str, Any]] = {}
    for form, num in (("half", protocol.num_draws), ("as printed", protocol.num_draws_as_printed)):
        for place, gamma_max in (places if num else {}).items():
            out[f"rates/{form}/{place}"] = {"form": form, "gamma_max": gamma_max, "num_seeds": num}
    return out | {"rotation": {"form": None, "gamma_max": None, "num_seeds": 1}}


def measure(trial: Trial, form: str | None, gamma_max: float | None) -> dict[str, Any]:
    """The best rates on one spectrum; without a `form`, the smallest spectral radius for λ = ±i with α, |β| up to 1."""
    p, how = trial.protocol, {"num_iterations": trial.protocol.num_iterations}
    if form is None:
        axes, same = (_logs(1e-4, 1.0, 100), _logs(1e-4, 1.0, 60)), np.full(p.dim, 1j)  # compiled for so many
        return {f"{x:g}": _best(_momentum, same, axes, np.array(math.pi * x), **how)[0] for x in p.phases}
    eigenvalues = spectrum(p, trial.seed, gamma_max, form == "half")
    rates = best_rates(eigenvalues, p.phases, **how)
    return {"rates": rates, "excess": excess(eigenvalues, rates) if p.suggest else {}}


def summarize(results: Results) -> Metrics:
    p: Protocol = results.protocol
    spectra = [one for name, draws in results.items() if name != "rotation" for one in draws]
    found = {name: [one["excess"][name] for one in spectra if name in one["excess"]] for name in dynamics.METHODS}
    rates = results.nested(lambda draws: {n: [one["rates"][n] for one in draws] for n in draws[0].get("rates", ())})
    return {
        "gamma_max": p.gamma_max,
        "rates": rates["rates"],
        "suggest_excess": {name: [min(values), max(values)] for name, values in found.items() if values},
        "expected": {
            form: {f"{mean:g}, {deviation:g}": expected(places, p, mean, deviation) for mean, deviation in p.densities}
            for form, places in rates["rates"].items()
        },
        "rotation": results["rotation"][0],
    }


def evaluations(rates: Sequence[float], tolerance: float) -> np.ndarray:
    """How many gradient evaluations shrink the distance by the factor `tolerance`, for rates per gradient."""
    return np.array([math.log(tolerance) / math.log(rate) if rate < 1 - CERTAIN else math.inf for rate in rates])


def expected(rates: dict[str, Any], protocol: Protocol, mean: float, deviation: float) -> dict[str, float]:
    """For each phase the expected number of gradient evaluations (mean over draws), gamma_max a truncated normal."""
    grid = np.array(protocol.gamma_max)
    density = np.exp(-0.5 * ((grid - mean) / deviation) ** 2)
    weights = density * np.gradient(grid) * np.where((grid == grid[0]) | (grid == grid[-1]), 0.5, 1.0)  # trapezoids
    out = {}
    for phase in protocol.phases:
        numbers = [np.mean(evaluations(rates[f"{g:g}"][f"phase {phase:g}"], protocol.tolerance)) for g in grid]
        out[f"{phase:g}"] = float(weights @ np.array(numbers) / weights.sum())
    return out


SHOWN = {
    "gradient descent": "gradient descent",
    "phase 0": "positive momentum",
    "phase 1": "negative momentum",
    "phase 0.125": "phase π/8",
    "phase 0.5": "phase π/2",
    "complex momentum": "complex momentum, phase tuned",
    "extragradient": "extragradient",
    "optimistic gradient": "optimistic gradient",
}


def tables(metrics: Metrics) -> dict[str, Any]:
    shown = {**SHOWN, **{f"{n}, tied": f"{n}, tied" for n in RIVALS}}
    out = {}
    for form, places in metrics["rates"].items():
        title = f"Best rate per gradient, mean over draws [range], {FORMS[form]}"
        rows = {place: {label: row[name] for name, label in shown.items()} for place, row in places.items()}
        out[title] = markdown(rows, "γ_max")
    for form, densities in metrics["expected"].items():
        title = "Expected number of gradient evaluations over a truncated normal density of γ_max, by fixed phase over "
        title += f"π; learning rate and modulus tuned for each γ_max, {FORMS[form]}"
        rows = {name: {k: "∞" if v is None else v for k, v in row.items()} for name, row in densities.items()}
        out[title] = markdown(rows, "mean, deviation of γ_max")
    excess: dict[str, Any] = {
        name: dict(zip(("smallest", "largest"), ends)) for name, ends in metrics["suggest_excess"].items()
    }
    title = "`suggest` against the fine search: how many more steps it needs, as a share (negative: fewer)"
    return out | {title: markdown(excess, "method")}


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    grid, tolerance = metrics["gamma_max"], results.protocol.tolerance
    rates = metrics["rates"]["half"]
    curves = {
        label: (grid, [float(np.median(evaluations(rates[f"{g:g}"][name], tolerance))) for g in grid])
        for name, label in SHOWN.items()
    }
    phases = {name: (list(map(float, row)), list(row.values())) for name, row in metrics["expected"]["half"].items()}
    panels = {f"until {tolerance:g}, over γ_max": curves, "expected, over arg β / π, by density of γ_max": phases}
    return {"evaluations": lines(panels, ("", "gradient evaluations"), log="y")}


def ratios(metrics: Metrics, place: str, ours: str, others: Sequence[str]) -> np.ndarray:
    """Evaluations of one method over those of the best of others, per draw; 99 where ours does not converge."""
    rates = metrics["rates"]["half"][place]
    best = np.min([evaluations(rates[name], 0.1) for name in others], axis=0)
    own = evaluations(rates[ours], 0.1)
    return np.array([min(a / b, 99.0) if math.isfinite(a) else 99.0 for a, b in zip(own, best)])


@measured
def over_places(metrics: Metrics, ours: str, others: Sequence[str], of_draws: Callable, up_to: float) -> float:
    """The largest ratio over gamma_max up to a bound, of the draws the largest or the median."""
    places = [f"{g:g}" for g in metrics["gamma_max"] if g <= up_to]
    return round(max(float(of_draws(ratios(metrics, place, ours, others))) for place in places), 4)


@measured
def at_place(metrics: Metrics, place: str, ours: str, others: Sequence[str]) -> float:
    """The median ratio over draws."""
    return round(float(np.median(ratios(metrics, place, ours, others))), 4)


@measured
def pure(metrics: Metrics, extreme: Callable, *names: str) -> float:
    """The extreme rate of some methods over draws with pure rotations, minus 1."""
    return float(f"{extreme(r for name in names for r in metrics['rates']['half'][PURE][name]) - 1:.4g}")


@measured
def rotation(metrics: Metrics, extreme: Callable, real: bool) -> float:
    """The extreme of the smallest spectral radii over phases that are real, or that are not, minus 1."""
    return extreme(round(r - 1, 8) for phase, r in metrics["rotation"].items() if (float(phase) in (0, 1)) == real)


def untied(metrics: Metrics) -> list[float]:
    """At the smallest gamma_max, evaluations with equal steps over those with separate ones, for both methods."""
    place = f"{metrics['gamma_max'][0]:g}"
    return [at_place(place, f"{name}, tied", (name,))(metrics) for name in RIVALS]


def by_phase(metrics: Metrics) -> dict[str, float]:
    """Expected evaluations by phase, for the first density, where they are finite."""
    return {k: v for k, v in next(iter(metrics["expected"]["half"].values()), {}).items() if v is not None}


def best_phase(metrics: Metrics) -> float | None:
    known = by_phase(metrics)
    return float(min(known, key=lambda phase: known[phase])) if known else None


FIXED = ("gradient descent", "phase 1", "phase 0.125", "phase 0.5", *RIVALS)
CLAIMS = claims(
    """
    S1 | published | While γ_max < 1/2, positive momentum is the fastest of the methods with a fixed phase,
        extragradient and optimistic gradient. | qualitative (figure 4.5) | The largest, over draws and γ_max < 1/2, of
        its gradient evaluations over those of the best of the others
    S2 | published | While γ_max < 1/2, the phase π/8 comes close to positive momentum. | qualitative (figure 4.5)
        | The largest ratio of gradient evaluations; gradient descent has 4.1 at γ_max = 0
    S3 | published | With purely adversarial directions gradient descent, positive and negative momentum do not
        converge. | qualitative (figure 4.5) | The lowest of their rates over draws with three pure rotations, minus 1
    S4 | published | With purely adversarial directions complex momentum (phases π/8, π/2, tuned), extragradient and
        optimistic gradient converge. | qualitative (figure 4.5) | The highest of their rates over draws with three pure
        rotations, minus 1
    S5 | published | For every γ_max complex momentum with a tuned phase competes with extragradient and optimistic
        gradient. | qualitative (figure 4.5) | The largest over γ_max of its gradient evaluations over those of the
        better of the two, median over draws; the bar is ours
    S5-0.9 | ours | While γ_max is at most 0.9, it is the fastest. | not stated | As S5, over these γ_max; real momentum
        of either sign is a special case of it
    S5-pure | published | It is competitive with purely adversarial directions, too. | qualitative (figure 4.5, at
        γ_max = 1) | As S5, for three pure rotations (the smallest, a middle, the largest eigenvalue)
    S6 | control | In cooperative games extragradient and optimistic gradient need a step of extrapolation of its own
        size. | figure 4.5 tunes both apart | At the smallest γ_max, gradient evaluations with equal steps over those
        with separate ones
    S7 | control | `nestax.dynamics.suggest` finds the best hyperparameters to within 2 % in the number of steps, for
        all six methods and every spectrum. | ours | How many more steps it needs than a grid of thousands of points,
        refined by differential evolution, as a share; the largest over methods, draws, γ_max and both forms of the game
    S8 | published | The phase π/8 minimizes the expected number of gradient evaluations for a random γ_max.
        | qualitative (figure 4.6) | The best of the fixed phases, over π, for a normal density truncated to [0, 1] with
        mean 0.75 and deviation 0.15 | the source takes mean and deviation from trainings of its GAN and has most of the
        mass below 0.5; these are ours
    S8-near | ours | The phase π/8 needs at most a quarter more gradient evaluations in expectation than the best fixed
        phase. | none | The ratio, for the density of S8 | the density is not the source's, see S8
    S9-real | published | On a pure rotation no learning rate and modulus up to 1 make a real momentum converge.
        | proved; figure B.2 | The smallest spectral radius over phases 0 and π, minus 1
    S9-complex | published | On a pure rotation every phase in between has a learning rate and modulus up to 1 with
        which it converges. | proved for two phases; figure B.2 | The largest over phases of the smallest spectral
        radius, minus 1
    """,
    {
        "S1": (over_places("phase 0", FIXED, np.max, 0.499), at_most(1.01), 1.2, True),
        "S2": (over_places("phase 0.125", ("phase 0",), np.max, 0.499), at_most(1.5), 4.1, True),
        "S3": (pure(min, "gradient descent", "phase 0", "phase 1"), at_least(-CERTAIN), -1e-3, True),
        "S4": (pure(max, "phase 0.125", "phase 0.5", "complex momentum", *RIVALS), below(-1e-6), 0.0, True),
        "S5": (over_places("complex momentum", RIVALS, np.median, 1.0), at_most(1.5), 1.65),
        "S5-0.9": (over_places("complex momentum", RIVALS, np.median, 0.9), at_most(1.01), 1.1, True),
        "S5-pure": (at_place(PURE, "complex momentum", RIVALS), at_most(1.5), 5.0),
        "S6": (untied, above(2), [3.0, 1.5], True),
        "S7": (at("suggest_excess", ..., 1, by=max), at_most(0.02), 0.05, True),
        "S8": (best_phase, equal(0.125), 0.5),
        "S8-near": (lambda m: round(by_phase(m)["0.125"] / min(by_phase(m).values()), 4), at_most(1.25), 2.0),
        "S9-real": (rotation(min, real=True), at_least(-CERTAIN), -1e-3, True),
        "S9-complex": (rotation(max, real=False), below(-1e-6), 0.0, True),
    },
)

_PHASES = (0.0, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)

RECIPE = Recipe(
    name="complex/spectrum-sweep",
    title="Rates of first-order methods as a game goes from cooperative to adversarial",
    source="Lorraine, Acuna, Vicol, Duvenaud 2022 (AISTATS), on the interpolated game; figures 4.5, 4.6 and B.2 of the "
    "thesis of Lorraine",
    scales={
        "smoke": Protocol((0.4,), 1, 0, (0.0, 0.125, 0.5, 1.0), dim=3, num_iterations=60, densities=()),
        "laptop": Protocol((*(round(0.1 * i, 1) for i in range(10)), 0.95, 1.0), 5, 2, _PHASES),
        "paper": Protocol(tuple(round(0.05 * i, 2) for i in range(21)), 20, 20, _PHASES),
    },
    axes=("gamma_max", "num_draws", "num_draws_as_printed", "densities"),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    pictures=pictures,
    x64=True,
    digits=10,
    claims=CLAIMS,
)
