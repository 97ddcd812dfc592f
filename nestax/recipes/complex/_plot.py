"""Pictures of the recipes on complex momentum."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

from ..._storage import save_figure


def plot_dirac(
    curves: Mapping[str, np.ndarray],
    grids: Mapping[str, np.ndarray],
    moduli: np.ndarray,
    phases: np.ndarray,
    best: Mapping[str, Mapping[str, float]],
    shown: Sequence[str],
    path: Path,
) -> None:
    """Left: distance over steps in simultaneous play. Right: the rate over modulus and phase, white where it is 1 or
    more; a star at the best momentum."""
    figure = matplotlib.figure.Figure(figsize=(13, 3.9), layout="constrained")
    left, *right = figure.subplots(1, 1 + len(grids), width_ratios=(1.1, *[1] * len(grids)))
    for name in shown:
        left.plot(np.arange(1, len(curves[name]) + 1), curves[name], label=name, linewidth=1.4)
    left.set_yscale("log")
    left.set_xlabel("steps")
    left.set_ylabel("distance from the solution")
    left.set_title("simultaneous play")
    left.legend(title="momentum", fontsize=8)
    left.grid(True, which="major", alpha=0.3)
    lowest = min(grid.min() for grid in grids.values())
    for axes, (play, grid) in zip(right, grids.items()):
        shown_rates = np.where(grid < 1 - 1e-9, grid, np.nan)
        picture = axes.pcolormesh(phases / math.pi, moduli, shown_rates, vmin=lowest, vmax=1, shading="nearest")
        picture.set_rasterized(True)
        at = best[play]
        axes.plot(at["phase_over_pi"], at["modulus"], "*", color="red", markersize=11)
        axes.set_title(f"{play} play: at best {at['rate']:.3f} per step")
        axes.set_xlabel("arg β / π")
        figure.colorbar(picture, ax=axes, label="rate per step")
    right[0].set_ylabel("|β|")
    _save(figure, path)


def plot_sweep(
    gamma_max: Sequence[float],
    evaluations: Mapping[str, np.ndarray],
    expected: Mapping[str, Mapping[str, float]],
    tolerance: float,
    path: Path,
) -> None:
    """Left: gradient evaluations over gamma_max, medians over draws with the range as a band. Right: their expectation
    over gamma_max, for each fixed phase; one line per density."""
    figure = matplotlib.figure.Figure(figsize=(12, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for name, values in evaluations.items():
        (line,) = left.plot(gamma_max, np.median(values, axis=1), marker=".", label=name, linewidth=1.4)
        left.fill_between(
            gamma_max, values.min(axis=1), values.max(axis=1), color=line.get_color(), alpha=0.12, linewidth=0
        )
    left.set_yscale("log")
    left.set_xlabel("$\\gamma_{\\max}$: from cooperative (0) to partly adversarial (1)")
    left.set_ylabel(f"gradient evaluations until {tolerance:g}")
    left.legend(fontsize=8)
    for name, values in expected.items():
        right.plot([float(phase) for phase in values], list(values.values()), marker=".", label=name, linewidth=1.2)
    right.set_yscale("log")
    right.set_xlabel("arg β / π")
    right.set_ylabel("expected gradient evaluations")
    right.legend(title="mean, deviation of $\\gamma_{\\max}$", fontsize=8)
    for axes in (left, right):
        axes.grid(True, which="major", alpha=0.3)
    _save(figure, path)


def plot_phases(roots: Mapping[float, np.ndarray], best: Mapping[float, float], path: Path) -> None:
    """The eigenvalues of the augmented dynamics for one phase per panel: the unit circle, and the circle (dashed) of
    the smallest spectral radius."""
    columns = min(4, len(roots))
    rows = math.ceil(len(roots) / columns)
    figure = matplotlib.figure.Figure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    turn = np.exp(1j * np.linspace(0, 2 * np.pi, 300))
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(roots) :]:
        axes.set_axis_off()
    for axes, (phase, values) in zip(panels.flat, roots.items()):
        axes.scatter(values.real, values.imag, s=0.4, linewidths=0, color="tab:blue", rasterized=True)
        axes.plot(turn.real, turn.imag, color="black", linewidth=0.8)
        axes.plot(best[phase] * turn.real, best[phase] * turn.imag, "--", color="tab:red", linewidth=1)
        axes.set_title(f"arg β = {phase:g}π, at best {best[phase]:.4f}", fontsize=9)
        axes.set_xlim(-1.6, 1.6)
        axes.set_ylim(-1.6, 1.6)
        axes.set_aspect("equal")
    _save(figure, path)


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    save_figure(path, figure, dpi=110)
