"""Pictures of the GAN recipes."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.axes
import matplotlib.figure
import numpy as np

from ..._storage import save_figure
from ...dynamics import Spectrum

Grid = Mapping[tuple[float, float], tuple[float, float]]


def plot_grid(grids: Mapping[str, Grid], points: Mapping[str, np.ndarray], reference: np.ndarray, path: Path) -> None:
    """Above, for every learning rate the scores by modulus and phase, with the number of covered modes written in;
    below, generated points in front of data.

    A grid maps a modulus and a phase (over π) to a negative log-likelihood and a number of modes.
    """
    columns = max(len(grids), len(points))
    figure = matplotlib.figure.Figure(figsize=(4.4 * columns, 7.4), layout="constrained")
    axes = np.asarray(figure.subplots(2, columns, squeeze=False))
    scores = np.log10([score + 3 for grid in grids.values() for score, _ in grid.values()])
    limits = float(scores.min()), float(scores.max())
    images = [_heat_map(here, grid, limits) for grid, here in zip(grids.values(), axes[0])]
    for rate, here in zip(grids, axes[0]):
        here.set_title(f"learning rate {rate}", fontsize=10)
    figure.colorbar(images[0], ax=list(axes[0]), label="log₁₀ (negative log-likelihood + 3)")
    for (title, generated), here in zip(points.items(), axes[1]):
        here.scatter(*reference.T, s=3, color="0.75", linewidths=0)
        here.scatter(*generated.T, s=3, color="C0", linewidths=0)
        here.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        here.set_title(title, fontsize=9)
    for here in [*axes[0][len(grids) :], *axes[1][len(points) :]]:
        here.set_visible(False)
    save_figure(path, figure, dpi=75)


def _heat_map(axes: matplotlib.axes.Axes, grid: Grid, limits: tuple[float, float]):
    moduli = sorted({modulus for modulus, _ in grid})
    phases = sorted({phase for modulus, phase in grid if modulus})
    values, labels = np.full((2, len(moduli), len(phases)), np.nan)
    for i, modulus in enumerate(moduli):
        for j, phase in enumerate(phases):
            score, modes = grid[(modulus, phase if modulus else 0.0)]  # zero has no phase: one value all along
            values[i, j], labels[i, j] = np.log10(score + 3), modes
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis_r", vmin=limits[0], vmax=limits[1])
    for i, j in np.ndindex(labels.shape):
        axes.text(j, i, f"{labels[i, j]:.1f}", ha="center", va="center", color="white", fontsize=8)
    axes.set_xticks(range(len(phases)), [f"{phase:g}π" for phase in phases])
    axes.set_yticks(range(len(moduli)), [f"{modulus:g}" for modulus in moduli])
    axes.set(xlabel="phase of the momentum (modes covered written in)", ylabel="modulus")
    return image


def plot_spectra(spectra: Mapping[str, Spectrum], path: Path) -> None:
    """Log-polar pictures of a GAN's eigenvalues side by side, coloured by the discriminator's share in the
    eigenvectors; same axes in all."""
    figure = matplotlib.figure.Figure(figsize=(3.2 * len(spectra) + 0.8, 3.6), layout="constrained")
    axes = np.asarray(figure.subplots(1, len(spectra), squeeze=False, sharex=True, sharey=True))[0]
    dots = []
    for (title, spectrum), here in zip(spectra.items(), axes):
        kept = np.abs(spectrum.eigenvalues) > 1e-6 * spectrum.spectral_radius
        values, shares = spectrum.eigenvalues[kept], spectrum.player_shares()[kept, -1]
        dots.append(here.scatter(np.abs(values), np.angle(values), c=shares, s=6, vmin=0, vmax=1, cmap="coolwarm"))
        for phase in (-np.pi / 2, np.pi / 2):
            here.axhline(phase, color="gray", linestyle="--", linewidth=0.8)
        here.set_xscale("log")
        here.set_xlabel("modulus")
        here.set_title(title, fontsize=10)
        here.grid(True, which="major", alpha=0.3)
    axes[0].set_yticks(np.pi * np.array([-1, -0.5, 0, 0.5, 1]), ["-π", "-π/2", "0", "π/2", "π"])
    axes[0].set_ylabel("phase")
    figure.colorbar(dots[0], ax=list(axes), label="discriminator's share")
    save_figure(path, figure, dpi=90)
