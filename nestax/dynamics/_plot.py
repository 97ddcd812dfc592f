"""Pictures of spectra: log-polar for games, the complex plane with the unit circle for steps."""

from os import PathLike
from typing import Any

import numpy as np

from .._storage import save_figure
from ._spectrum import Spectrum


def plot_spectrum(spectrum: Spectrum, path: str | PathLike[str], *, player: int = -1, title: str = "") -> None:
    r"""Writes a log-polar picture of the eigenvalues of a game: $\lvert \lambda \rvert$ to the right, on a logarithmic
    axis, $\arg \lambda$ up; coloured by the share of one player in the eigenvectors.

    Minimization lies on the line $\arg \lambda = 0$, an adversarial game on $\pm \pi / 2$ (dashed), and what is beyond
    repels. Eigenvalues below $10^{-12}$ of the largest have no place on a logarithmic axis and are left out.

    **Arguments:**

    - `spectrum`: from `spectrum(game_jacobian(...))`.
    - `path`: the file; its ending says the format. Folders are made.
    - `player`: whose share is shown. Default: the last one's, a GAN's discriminator.
    - `title`: default none.
    """
    figure = _figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    shown = np.abs(spectrum.eigenvalues) > 1e-12 * spectrum.spectral_radius
    values = spectrum.eigenvalues[shown]
    _scatter(axes, np.abs(values), np.angle(values), spectrum, shown, player)
    axes.set_xscale("log")
    axes.set_xlabel("modulus of the eigenvalue")
    axes.set_ylabel("phase of the eigenvalue")
    axes.set_ylim(-3.4, 3.4)
    axes.set_yticks(np.pi * np.array([-1, -0.5, 0, 0.5, 1]), ["-π", "-π/2", "0", "π/2", "π"])
    for phase in (-np.pi / 2, np.pi / 2):
        axes.axhline(phase, color="gray", linestyle="--", linewidth=0.8)
    _save(figure, axes, path, title)


def plot_plane(spectrum: Spectrum, path: str | PathLike[str], *, player: int = -1, title: str = "") -> None:
    """Writes a picture of eigenvalues in the complex plane, with the unit circle and the circle of the largest modulus.

    For the Jacobian of a step: it contracts if all eigenvalues are inside the unit circle (solid), at the rate of the
    largest modulus (dashed). Arguments as in `plot_spectrum`.
    """
    figure = _figure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.subplots()
    plot_eigenvalues(axes, spectrum, player)
    _save(figure, axes, path, title)


def plot_eigenvalues(axes: Any, spectrum: Spectrum, player: int = -1) -> None:
    """The picture of `plot_plane`, into given axes."""
    values = spectrum.eigenvalues
    _scatter(axes, values.real, values.imag, spectrum, np.ones(len(values), bool), player)
    turn = np.exp(1j * np.linspace(0, 2 * np.pi, 400))
    axes.plot(turn.real, turn.imag, color="black", linewidth=0.8)
    axes.plot(*(spectrum.spectral_radius * np.stack([turn.real, turn.imag])), "--", color="gray", linewidth=0.8)
    axes.set_aspect("equal")
    axes.set_xlabel("real part")
    axes.set_ylabel("imaginary part")


def _figure(**settings: Any) -> Any:
    import matplotlib.figure  # here, since importing the package must not pay for it

    return matplotlib.figure.Figure(**settings)


def _scatter(axes: Any, x, y, spectrum: Spectrum, shown: np.ndarray, player: int) -> None:
    num_players = len(spectrum.blocks)
    if not -num_players <= player < num_players:
        raise ValueError(f"`player` must be one of the {num_players} players, 0 to {num_players - 1}, got {player}.")
    shares = spectrum.player_shares()[shown, player]
    dots = axes.scatter(x, y, c=shares, s=14, vmin=0, vmax=1, cmap="coolwarm", edgecolors="black", linewidths=0.2)
    if num_players > 1:
        axes.figure.colorbar(dots, ax=axes, label=f"share of player {player % num_players + 1} of {num_players}")


def _save(figure: Any, axes: Any, path: str | PathLike[str], title: str) -> None:
    axes.grid(True, which="major", alpha=0.3)
    if title:
        figure.suptitle(title)
    save_figure(path, figure, dpi=130)
