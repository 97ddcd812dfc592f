"""All eigenvalues of the game Jacobian of a small GAN, while it is trained."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ... import catalogue, dynamics, optimizers
from ..._progress import progress_bar
from ..._solve import solve
from .._cache import cached
from .._recipe import Claim, Metrics, Recipe
from ._gan_plot import plot_spectra

SMALLEST = 1e-6
"""Relative to the largest modulus. Eigenvalues below it (dead units make many) have no phase and are left out."""

BINS = 16
"""Of the histograms of phases and of moduli."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figures are reproduced."""

    checkpoints: tuple[int, ...]  # updates, ascending
    num_seeds: int
    learning_rate: float = 1e-3  # Adam without momentum, for both players in turns; not given
    loss: str = "non-saturating"  # not given
    batch_size: int = 256  # of the training; not given
    jacobian_batch_size: int = 2_048  # of each kind, for the Jacobian; not given


def summary(spectrum: dynamics.Spectrum) -> dict[str, Any]:
    """What the claims need of a spectrum, over the eigenvalues above `SMALLEST` times the largest modulus."""
    moduli = np.abs(spectrum.eigenvalues)
    kept = moduli > SMALLEST * spectrum.spectral_radius
    values, moduli = spectrum.eigenvalues[kept], moduli[kept]
    shares = spectrum.player_shares()[kept, -1]
    sines = np.abs(np.imag(values)) / moduli
    counts = np.histogram(np.angle(values), BINS, (-np.pi - 1e-9, np.pi + 1e-9))[0] / len(values)
    return {
        "num": len(values),
        "radius": _round(moduli.max()),
        "median": _round(np.median(moduli)),
        "real": _round(np.mean(sines < 0.01)),
        "imaginary": _round(np.mean(sines > np.sqrt(0.5))),
        "entropy": _round(-np.sum(counts * np.log(np.where(counts > 0, counts, 1))) / np.log(BINS)),
        "bands": _round(explained(shares, np.log(moduli))),
        "gamma_max": _round(spectrum.max_adversarialness()),
    }


def explained(values: np.ndarray, by: np.ndarray) -> float:
    """The fraction of the variance of `values` that lies between `BINS` equally filled bins of `by`, less chance."""
    ranks = np.argsort(np.argsort(by, kind="stable"), kind="stable")
    bins = ranks * BINS // len(values)
    means = np.array([values[bins == i].mean() if np.any(bins == i) else 0.0 for i in range(BINS)])
    total = np.sum((values - values.mean()) ** 2)
    within = np.sum((values - means[bins]) ** 2)
    degrees = len(values) - len(np.unique(bins))
    if total == 0 or degrees < 1:
        return 0.0
    return float(1 - (within / degrees) / (total / (len(values) - 1)))  # the adjusted coefficient of determination


def _round(value: Any) -> float:
    return float(f"{float(value):.4g}")


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """In float64, since eigenvalues of a matrix that is far from normal need the digits. Finished seeds are kept."""
    wanted = {**dataclasses.asdict(protocol), "num_seeds": None, "checkpoints": list(protocol.checkpoints)}
    seeds = []
    with progress_bar(protocol.num_seeds, "trainings", progress) as report:
        for i in range(protocol.num_seeds):
            number = 1_000 * seed + i
            picture = folder / "comparison.png" if i == 0 else None

            def compute(number=number, picture=picture) -> dict[str, Any]:
                with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
                    return _one_seed(protocol, number, picture)

            seeds.append(cached(folder / "rows" / "seeds" / f"{i}.json", {**wanted, "seed": number}, compute))
            report(i + 1, lambda: "")
    return {"checkpoints": list(protocol.checkpoints), "seeds": seeds, "tables": [_table(protocol, seeds)]}


def _one_seed(protocol: Protocol, seed: int, picture: Path | None) -> dict[str, Any]:
    problem = catalogue.small_mixture_gan(protocol.loss, protocol.batch_size)
    whole = catalogue.small_mixture_gan(protocol.loss, protocol.jacobian_batch_size)
    optimizer = optimizers.Alternating(optimizers.adam(protocol.learning_rate, b1=0.0))
    key, sample, points_key = jax.random.split(jax.random.key(seed), 3)
    players, state, at = problem.init(key), None, 0
    spectra, summaries = {}, {}
    for mark in protocol.checkpoints:
        if mark > at:
            solution = solve(
                problem,
                optimizer,
                num_steps=mark - at,
                key=jax.random.fold_in(key, at),
                players=players,
                state=state,
                record_every=mark - at,
            )
            players, state, at = solution.players, solution.state, mark
        spectra[mark] = dynamics.spectrum(dynamics.game_jacobian(whole, players, sample))
        coverage = problem.mode_coverage(problem.generate(players, points_key, 5_000))
        summaries[str(mark)] = {
            **summary(spectra[mark]),
            "modes": int(coverage.num_modes),
            "high_quality": _round(coverage.high_quality),
        }
    if picture is not None:
        plot_spectra({f"{mark:,} updates": spectrum for mark, spectrum in spectra.items()}, picture)
    return summaries


def _ends(metrics: Metrics, key: str) -> list[tuple[float, float]]:
    """A measure at the first and at the last checkpoint, for every seed."""
    first, last = (str(metrics["checkpoints"][i]) for i in (0, -1))
    return [(seed[first][key], seed[last][key]) for seed in metrics["seeds"]]


def _mixed(metrics: Metrics) -> dict[str, float]:
    return {key: min(last for _, last in _ends(metrics, key)) for key in ("real", "imaginary")}


def _growth(metrics: Metrics) -> dict[str, float]:
    return {key: min(_round(last / first) for first, last in _ends(metrics, key)) for key in ("radius", "median")}


CLAIMS = (
    Claim(
        "P1",
        "The spectrum of a GAN is a mixture of real and of imaginary eigenvalues.",
        "qualitative (figures 4.7 and B.4)",
        _mixed,
        lambda value: min(value.values()) >= 0.02,
        "Value: after the training, the shares of eigenvalues with |Im λ| < 0.01 |λ| and with |Im λ| > |Re λ|, each "
        "the smallest over seeds; each at least 2 %, some ten eigenvalues.",
    ),
    Claim(
        "P2",
        "Eigenvalues grow in magnitude during the training.",
        "qualitative (figure B.4)",
        _growth,
        lambda value: min(value.values()) > 1,
        "Value: the largest and the median modulus after the training, over that at the start, each the smallest over "
        "seeds; both above 1.",
    ),
    Claim(
        "P3",
        "The phases of the eigenvalues spread during the training.",
        "qualitative (figure B.4)",
        lambda metrics: min(_round(last - first) for first, last in _ends(metrics, "entropy")),
        lambda value: value > 0,
        "Value: entropy of the histogram of phases in 16 bins (1: uniform), last minus first checkpoint, smallest over "
        "seeds; above 0.",
    ),
    Claim(
        "P4",
        "The discriminator's share in the eigenvectors is banded: it depends on the magnitude of the eigenvalue.",
        "qualitative (figure 4.7)",
        lambda metrics: min(last for _, last in _ends(metrics, "bands")),
        lambda value: value >= 0.25,
        "Value: the fraction of the variance of the share that lies between 16 equally filled bins of the modulus "
        "(adjusted for chance), after the training, smallest over seeds; at least one quarter. Shares depend on the "
        "units of the parameters.",
    ),
)


def _table(protocol: Protocol, seeds: list[dict[str, Any]]) -> dict[str, str]:
    columns = {
        "radius": "largest modulus",
        "median": "median modulus",
        "real": "real",
        "imaginary": "imaginary",
        "entropy": "entropy of phases",
        "gamma_max": "γ_max",
        "bands": "banded",
        "modes": "modes",
        "high_quality": "near a mode",
    }
    lines = ["| updates | " + " | ".join(columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for mark in protocol.checkpoints:
        at = [seed[str(mark)] for seed in seeds]
        cells = [f"{np.mean([x[key] for x in at]):.3g}" for key in columns]
        lines.append(f"| {mark:,} | " + " | ".join(cells) + " |")
    return {
        "title": "Means over seeds. Real, imaginary: shares of eigenvalues with |Im λ| < 0.01 |λ| and with |Im λ| > "
        "|Re λ|; γ_max: largest phase over π/2 in the right half plane; banded: share of variance of the "
        "discriminator's share that the modulus explains",
        "markdown": "\n".join(lines) + "\n",
    }


RECIPE = Recipe(
    name="complex/gan-spectrum",
    title="Eigenvalues of the game Jacobian of a small GAN during its training",
    source="Lorraine, Acuna, Vicol, Duvenaud 2022 (AISTATS), on the spectra of GANs; figures 4.7 and B.4 of the "
    "thesis of Lorraine",
    scales={
        "smoke": Protocol(checkpoints=(0, 100), num_seeds=1, batch_size=64, jacobian_batch_size=128),
        "laptop": Protocol(checkpoints=(0, 1_000, 5_000, 10_000), num_seeds=3),
        "paper": Protocol(checkpoints=(0, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000), num_seeds=10),
    },
    run=run,
    claims=CLAIMS,
    notes="In float64. The optimizer, loss, batch sizes and standard deviation of the Gaussians (0.05) of the "
    "source are not given. Trained by Adam without momentum in turns. Eigenvalues below one millionth of the "
    "largest modulus are left out of the statistics and the pictures.",
)
