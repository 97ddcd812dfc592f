"""First-order methods between minimization and adversarial games: the best rates, and which phase to choose."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import dynamics, problems
from ..._progress import progress_bar
from .._recipe import Metrics, Recipe
from ._plot import plot_phases, plot_sweep
from ._search import CERTAIN, minimize, polar
from ._sweep_claims import CLAIMS, PURE, evaluations

_RANGE = math.log(1e-8)  # how far below the grid step sizes and 1 - |β| may go


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figures are reproduced."""

    gamma_max: tuple[float, ...]  # from cooperative (0) to partly adversarial (1)
    num_draws: int  # random spectra; not given
    num_draws_as_printed: int  # of these, how many also with the printed formula, where curvatures are twice as large
    phases: tuple[float, ...]  # fixed phases of the momentum, over π
    dim: int = 20  # eigenvalue pairs; not given
    tolerance: float = 1e-5  # of the distance, for numbers of gradient evaluations; it cancels in all comparisons
    mean: float = 0.75  # of the truncated normal density of gamma_max; not given, our choice
    deviation: float = 0.15  # likewise
    other_densities: tuple[tuple[float, float], ...] = ((0.25, 0.15), (0.5, 0.15), (0.9, 0.15), (0.5, 0.5))
    num_shown: int = 60  # learning rates and moduli between 0 and 1 whose roots are drawn


def _momentum(point, values, phase):
    return dynamics.momentum_rate(values, jnp.exp(point[0]), polar(-jnp.expm1(point[1]), phase))


def _momentum_of_any_phase(point, values):
    return _momentum(point, values, point[2])


def _gradient(point, values):
    return dynamics.gradient_rate(values, jnp.exp(point[0]))


def _extragradient(point, values):
    return dynamics.extragradient_rate(values, jnp.exp(point[0]), jnp.exp(point[1]))


def _extragradient_tied(point, values):
    return dynamics.extragradient_rate(values, jnp.exp(point[0]), jnp.exp(point[0]))


def _optimistic(point, values):
    return dynamics.optimistic_rate(values, jnp.exp(point[0]), jnp.exp(point[1]))


def _optimistic_tied(point, values):
    return dynamics.optimistic_rate(values, jnp.exp(point[0]), jnp.exp(point[0]))


def _logs(low: float, high: float, num: int) -> np.ndarray:
    return np.linspace(math.log(low), math.log(high), num)


_STEP, _GAP = _logs(1e-4, 4.5, 70), _logs(1e-3, 1.0, 40)  # of momentum: logarithms of the step size and of 1 - |β|
# Rate, grid, gradients per step. Coordinates are logarithms of step sizes in units of the inverse largest eigenvalue.
_TUNED: dict[str, tuple[Callable, tuple[np.ndarray, ...], int]] = {
    "gradient descent": (_gradient, (_logs(1e-4, 2.2, 400),), 1),
    "extragradient": (_extragradient, (_logs(1e-4, 10.0, 120), _logs(1e-3, 2.0, 80)), 2),
    "extragradient, tied": (_extragradient_tied, (_logs(1e-4, 2.0, 400),), 2),
    "optimistic gradient": (_optimistic, (_logs(1e-4, 4.0, 120), _logs(1e-4, 2.0, 100)), 1),
    "optimistic gradient, tied": (_optimistic_tied, (_logs(1e-4, 2.0, 400),), 1),
}
_SUGGESTED = {"momentum": "phase 0", "negative momentum": "phase 1"}  # in `suggest`, and here


def _bounds(axes: Iterable[np.ndarray]) -> list[tuple[float, float]]:
    return [(axis[0] if axis[0] >= 0 else _RANGE, axis[-1]) for axis in axes]


def best_rates(eigenvalues: np.ndarray, phases: tuple[float, ...]) -> dict[str, float]:
    """The best rate per gradient of every method, and of momentum with each of the fixed phases (over π)."""
    values = eigenvalues / np.max(np.abs(eigenvalues))
    out = {}
    for name, (rate, axes, num_gradients) in _TUNED.items():
        out[name] = minimize(rate, values, axes, _bounds(axes))[0] ** (1 / num_gradients)
    axes, known = (_STEP, _GAP), []
    for turn in (math.pi * phase for phase in phases):
        out[f"phase {turn / math.pi:g}"], point = minimize(_momentum, values, axes, _bounds(axes), np.array(turn))
        known.append(np.append(point, turn))
    axes = (_STEP[::2], _GAP[::2], np.linspace(0, math.pi, 25))
    out["complex momentum"] = minimize(_momentum_of_any_phase, values, axes, _bounds(axes), known=known)[0]
    return out


def _excess(eigenvalues: np.ndarray, rates: dict[str, float]) -> dict[str, float | None]:
    """How many more steps the suggested hyperparameters need than those of the fine search, as a share; negative where
    the suggestion is better, `None` where neither converges."""
    out: dict[str, float | None] = {}
    for entry in dynamics.suggest_from_eigenvalues(eigenvalues):
        fine = rates[_SUGGESTED.get(entry.method, entry.method)]
        ours = entry.rate_per_gradient
        if max(fine, ours) >= 1 - CERTAIN:
            out[entry.method] = None if min(fine, ours) >= 1 - CERTAIN else math.copysign(1.0, ours - fine)
        else:
            out[entry.method] = math.log(fine) / math.log(ours) - 1
    return out


def _spectra(protocol: Protocol, seed: int, half: bool, num_draws: int) -> dict[str, list[np.ndarray]]:
    """Eigenvalues in the upper half plane, one array per draw, for every gamma_max and for the pure rotations."""
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(num_draws)]

    def draw(key, gamma_max):
        return problems.random_interpolated_game(key, gamma_max, dim=protocol.dim, half=half)

    def upper(game):
        return np.asarray(game.eigenvalues())[: protocol.dim]

    out = {f"{g:g}": [upper(draw(key, g)) for key in keys] for g in protocol.gamma_max}
    places = np.array([0, protocol.dim // 2, protocol.dim - 1])
    pure = [draw(key, 1.0).gamma.at[places].set(1.0) for key in keys]
    return {**out, PURE: [upper(problems.InterpolatedGame(gamma, half=half)) for gamma in pure]}


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Draws spectra and searches the best rates on each; `seed` draws them. In float64."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return _run(protocol, seed, folder, progress)


def _run(protocol: Protocol, seed: int, folder: Path, progress: bool) -> Metrics:
    forms = {"half": (True, protocol.num_draws), "as printed": (False, protocol.num_draws_as_printed)}
    spectra = {form: _spectra(protocol, seed, *how) for form, how in forms.items() if how[1]}
    rates: dict[str, Any] = {form: {place: {} for place in places} for form, places in spectra.items()}
    excess: dict[str, list[float]] = {name: [] for name in dynamics.METHODS}
    num_done, total = 0, sum(len(draws) for places in spectra.values() for draws in places.values())
    with progress_bar(total, "spectra", progress) as report:
        for form, places in spectra.items():
            for place, draws in places.items():
                for eigenvalues in draws:
                    best = best_rates(eigenvalues, protocol.phases)
                    for name, value in best.items():
                        rates[form][place].setdefault(name, []).append(round(value, 8))
                    for name, value in _excess(eigenvalues, best).items():
                        excess[name] += [] if value is None else [value]
                    num_done += 1
                    report(num_done, lambda form=form, place=place: f"{form}, {place}")
    densities = {(protocol.mean, protocol.deviation): None, **dict.fromkeys(protocol.other_densities)}
    expected = {
        form: {f"{mean:g}, {dev:g}": _expected(places, protocol, mean, dev) for mean, dev in densities}
        for form, places in rates.items()
    }
    rotation, roots = _rotation(protocol)
    _plot_sweep(rates["half"], expected["half"], protocol, folder / "comparison.png")
    plot_phases(roots, {phase: rotation[f"{phase:g}"] for phase in roots}, folder / "spectra.png")
    return {
        "gamma_max": list(protocol.gamma_max),
        "rates": rates,
        "suggest_excess": {name: [round(min(v), 6), round(max(v), 6)] for name, v in excess.items() if v},
        "expected": expected,
        "rotation": rotation,
        "tables": [
            *(_rate_table(form, places) for form, places in rates.items()),
            *(_expected_table(form, rows) for form, rows in expected.items()),
            _excess_table(excess),
        ],
    }


def _expected(rates: dict[str, Any], protocol: Protocol, mean: float, deviation: float) -> dict[str, float | None]:
    """For each phase the expected number of gradient evaluations (mean over draws), gamma_max a truncated normal."""
    at = np.array(protocol.gamma_max)
    density = np.exp(-0.5 * ((at - mean) / deviation) ** 2)
    weights = density * np.gradient(at) * np.where((at == at[0]) | (at == at[-1]), 0.5, 1.0)  # trapezoids
    out: dict[str, float | None] = {}
    for phase in protocol.phases:
        name = f"phase {phase:g}"
        numbers = np.array([np.mean(evaluations(rates[f"{g:g}"][name], protocol.tolerance)) for g in at])
        value = float(weights @ numbers / weights.sum())
        out[f"{phase:g}"] = round(value, 3) if math.isfinite(value) else None
    return out


def _rotation(protocol: Protocol) -> tuple[dict[str, float], dict[float, np.ndarray]]:
    """For λ = ±i the smallest spectral radius at each phase with α and |β| up to 1, and the eigenvalues on a grid."""
    best, roots = {}, {}
    axes = (_logs(1e-4, 1.0, 100), _logs(1e-4, 1.0, 60))
    unit = jnp.linspace(0, 1, protocol.num_shown)
    same = np.full(protocol.dim, 1j)  # as many as in the games, so that nothing is compiled anew
    for phase in protocol.phases:
        turn = math.pi * phase
        best[f"{phase:g}"] = round(minimize(_momentum, same, axes, _bounds(axes), np.array(turn))[0], 8)
        upper = np.asarray(_roots(unit[:, None], polar(unit, jnp.asarray(turn)))).reshape(-1)
        roots[phase] = np.concatenate([upper, upper.conj()])
    return best, roots


@jax.jit
def _roots(learning_rate, momentum):
    """Of the cubic that belongs to the eigenvalue i."""
    return dynamics.cubic_roots(dynamics.momentum_cubic(1j, learning_rate, momentum))


_SHOWN = {
    "gradient descent": "gradient descent",
    "phase 0": "positive momentum",
    "phase 1": "negative momentum",
    "phase 0.125": "phase π/8",
    "phase 0.5": "phase π/2",
    "complex momentum": "complex momentum, phase tuned",
    "extragradient": "extragradient",
    "optimistic gradient": "optimistic gradient",
}


def _plot_sweep(rates: dict[str, Any], expected: dict[str, Any], protocol: Protocol, path: Path) -> None:
    lines = {
        label: np.array([evaluations(rates[f"{g:g}"][name], protocol.tolerance) for g in protocol.gamma_max])
        for name, label in _SHOWN.items()
    }
    plot_sweep(protocol.gamma_max, lines, expected, protocol.tolerance, path)


_FORMULAS = {"half": "with curvatures a (1 - γ)", "as printed": "with curvatures 2 a (1 - γ), as printed"}


def _rate_table(form: str, places: dict[str, Any]) -> dict[str, str]:
    names = [*_SHOWN, "extragradient, tied", "optimistic gradient, tied"]
    lines = ["| γ_max | " + " | ".join(_SHOWN.get(name, name) for name in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for place, row in places.items():
        lines.append(f"| {place} | " + " | ".join(_cell(row[name]) for name in names) + " |")
    return {
        "title": f"Best rate per gradient, median over draws [range], {_FORMULAS[form]}",
        "markdown": "\n".join(lines) + "\n",
    }


def _cell(rates: list[float]) -> str:
    low, middle, high = (_number(x) for x in (min(rates), float(np.median(rates)), max(rates)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def _number(rate: float) -> str:
    return "1" if rate >= 1 - CERTAIN else f"{rate:.4f}" if rate < 0.9995 else f"1 - {1 - rate:.1g}"


def _expected_table(form: str, expected: dict[str, Any]) -> dict[str, str]:
    phases = list(next(iter(expected.values())))
    lines = ["| mean, deviation of γ_max | " + " | ".join(f"{phase}π" for phase in phases) + " | best phase |"]
    lines.append("|---|" + "---|" * (len(phases) + 1))
    for name, row in expected.items():
        cells = [f"{row[phase]:.4g}" if row[phase] is not None else "∞" for phase in phases]
        best = min(phases, key=lambda phase, row=row: math.inf if row[phase] is None else row[phase])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {best}π |")
    return {
        "title": "Expected number of gradient evaluations over a truncated normal density of γ_max, by fixed phase; "
        f"learning rate and modulus tuned for each γ_max, {_FORMULAS[form]}",
        "markdown": "\n".join(lines) + "\n",
    }


def _excess_table(excess: dict[str, list[float]]) -> dict[str, str]:
    lines = ["| method | spectra on which it converges | smallest | median | largest |", "|---|---|---|---|---|"]
    for name, values in excess.items():
        if values:
            cells = " | ".join(f"{100 * x:.2f} %" for x in (min(values), float(np.median(values)), max(values)))
            lines.append(f"| {name} | {len(values)} | {cells} |")
    return {
        "title": "`suggest` against the fine search: how many more steps it needs (negative: fewer)",
        "markdown": "\n".join(lines) + "\n",
    }


_PHASES = (0.0, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)

RECIPE = Recipe(
    name="complex/spectrum-sweep",
    title="Rates of first-order methods as a game goes from cooperative to adversarial",
    source="Lorraine, Acuna, Vicol, Duvenaud 2022 (AISTATS), on the interpolated game; figures 4.5, 4.6 and B.2 of the "
    "thesis of Lorraine",
    scales={
        "smoke": Protocol(
            gamma_max=(0.4, 1.0),
            num_draws=1,
            num_draws_as_printed=0,
            phases=(0.0, 0.125, 0.5, 1.0),
            dim=6,
            other_densities=(),
            num_shown=10,
        ),
        "laptop": Protocol(
            gamma_max=(*(round(0.1 * i, 1) for i in range(10)), 0.95, 1.0),
            num_draws=5,
            num_draws_as_printed=2,
            phases=_PHASES,
        ),
        "paper": Protocol(
            gamma_max=tuple(round(0.05 * i, 2) for i in range(21)),
            num_draws=20,
            num_draws_as_printed=20,
            phases=_PHASES,
        ),
    },
    run=run,
    claims=CLAIMS,
    notes=(
        "The source gives neither the number of eigenvalue pairs (here 20) nor the draws (here 5, scaled by γ_max) nor "
        "the density of figure 4.6. What it says about phases needs curvatures a (1 - γ); its formula as printed has "
        "twice these and is in tables of its own (2 draws). Every optimum is refined, since it lies in a notch that "
        "grids miss: coarse ones make complex momentum look slower than it is.\n\n"
        "S5: up to γ_max = 0.9 tuned complex momentum is the fastest of all (S5-0.9). At 1 it needs 1.6 times as many "
        "gradients as the better of extragradient and optimistic gradient (0.9 to 2.5, by draw), and with three pure "
        "rotations of different speed 5 to 9 times as many.\n\n"
        "S8: the number of evaluations explodes as γ_max approaches 1, where phases near π/2 and above do best, and "
        "any density that reaches there prefers them. With means from 0.2 to 0.5 and deviations from 0.02 to 0.3, π/8 "
        "was never the best of the fixed phases, though within 10 % of it where the deviation was at most 0.1: there "
        "the phase 0 wins, or nearly so. With curvatures as printed π/8 is the best for mean 0.5 and deviation 0.15, "
        "and no longer for higher means."
    ),
)
