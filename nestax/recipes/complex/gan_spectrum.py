"""All eigenvalues of the game Jacobian of a small GAN, while it is trained."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ... import dynamics, networks, optimizers, problems
from ..._solve import solve
from .. import Metrics, Recipe, Results, Trial, above, at_least, claims, lines, markdown, measured

SMALLEST = 1e-6
"""Relative to the largest modulus. Eigenvalues below it (dead units make many) have no phase and are left out."""

BINS = 16
"""Of the histograms of phases and of moduli."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of the figures."""

    checkpoints: tuple[int, ...]  # updates, ascending
    num_seeds: int
    learning_rate: float = 1e-3  # Adam without momentum, for both players in turns; not given
    width: int = 16  # of two hidden layers, as published: 723 parameters
    loss: str = "non-saturating"  # not given
    batch_size: int = 256  # of the training; not given
    jacobian_batch_size: int = 2_048  # of each kind, for the Jacobian; not given


def measure(trial: Trial) -> dict[str, Any]:
    """One training, with the spectrum at every checkpoint."""
    protocol = trial.protocol
    network = networks.MLP((protocol.width,) * 2, "relu", init_scale=None)
    problem, whole = (
        problems.MixtureGAN(protocol.loss, network, network, batch_size=size)
        for size in (protocol.batch_size, protocol.jacobian_batch_size)
    )
    optimizer = optimizers.Alternating(optimizers.adam(protocol.learning_rate, b1=0.0))
    key, sample, points_key = trial.keys(3)
    players, state, at, out = problem.init(key), None, 0, {}
    for mark in protocol.checkpoints:
        if mark > at:
            how: Any = {"num_steps": mark - at, "record_every": mark - at, "key": jax.random.fold_in(key, at)}
            solution = solve(problem, optimizer, players=players, state=state, **how)
            players, state, at = solution.players, solution.state, mark
        spectrum = dynamics.spectrum(dynamics.game_jacobian(whole, players, sample))
        coverage = problem.mode_coverage(problem.generate(players, points_key, 5_000))
        out[str(mark)] = {**summary(spectrum), "modes": coverage.num_modes, "high_quality": coverage.high_quality}
        if trial.repetition == 0 and mark == protocol.checkpoints[-1]:
            dynamics.plot_spectrum(spectrum, trial.folder / "spectrum.png")
    return out


def summary(spectrum: dynamics.Spectrum) -> dict[str, Any]:
    """What the claims need of a spectrum, over the eigenvalues above `SMALLEST` times the largest modulus."""
    moduli = np.abs(spectrum.eigenvalues)
    kept = moduli > SMALLEST * spectrum.spectral_radius
    values, moduli = spectrum.eigenvalues[kept], moduli[kept]
    sines = np.abs(np.imag(values)) / moduli
    counts = np.histogram(np.angle(values), BINS, (-np.pi - 1e-9, np.pi + 1e-9))[0] / len(values)
    return {
        "num": len(values),
        "radius": moduli.max(),
        "median": np.median(moduli),
        "real": np.mean(sines < 0.01),
        "imaginary": np.mean(sines > np.sqrt(0.5)),
        "entropy": -np.sum(counts * np.log(np.where(counts > 0, counts, 1))) / np.log(BINS),
        "bands": explained(spectrum.player_shares()[kept, -1], np.log(moduli)),
        "gamma_max": spectrum.max_adversarialness(),
    }


def explained(values: np.ndarray, by: np.ndarray) -> float:
    """The fraction of the variance of `values` that lies between `BINS` equally filled bins of `by`, less chance."""
    ranks = np.argsort(np.argsort(by, kind="stable"), kind="stable")
    bins = ranks * BINS // len(values)
    means = np.array([values[bins == i].mean() if np.any(bins == i) else 0.0 for i in range(BINS)])
    total, within = np.sum((values - values.mean()) ** 2), np.sum((values - means[bins]) ** 2)
    degrees = len(values) - len(np.unique(bins))
    if total == 0 or degrees < 1:
        return 0.0
    return float(1 - (within / degrees) / (total / (len(values) - 1)))  # the adjusted coefficient of determination


COLUMNS = {
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


def tables(metrics: Metrics) -> dict[str, Any]:
    title = (
        "Means over seeds [range]. Real, imaginary: shares of eigenvalues with |Im λ| < 0.01 |λ| and with |Im λ| > "
        "|Re λ|; γ_max: largest phase over π/2 in the right half plane; banded: share of variance of the "
        "discriminator's share that the modulus explains"
    )
    seeds = metrics["seeds"]
    rows = {
        f"{m:,}": {n: [s[str(m)][key] for s in seeds] for key, n in COLUMNS.items()} for m in metrics["checkpoints"]
    }
    return {title: markdown(rows, "updates")}


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    marks, seeds = metrics["checkpoints"], metrics["seeds"]
    panel = {
        COLUMNS[key]: (marks, [float(np.mean([seed[str(m)][key] for seed in seeds])) for m in marks])
        for key in ("real", "imaginary", "entropy", "gamma_max", "bands")
    }
    return {"spectrum": lines({"means over seeds": panel}, ("updates", ""))}


@measured
def smallest(metrics: Metrics, of: Callable[[float, float], float], *keys: str) -> dict[str, float] | float:
    """The smallest over seeds of a function of a measure at the first and at the last checkpoint, for each measure."""
    start, end = (str(metrics["checkpoints"][i]) for i in (0, -1))
    found = {key: min(float(f"{of(s[start][key], s[end][key]):.4g}") for s in metrics["seeds"]) for key in keys}
    return found if len(found) > 1 else next(iter(found.values()))


CLAIMS = claims(
    """
    P1 | published | The spectrum of a GAN is a mixture of real and of imaginary eigenvalues. | qualitative (figures 4.7
        and B.4) | After the training, the shares of eigenvalues with |Im λ| < 0.01 |λ| and with |Im λ| > |Re λ|, each
        the smallest over seeds; 2 % are some ten eigenvalues
    P2 | published | Eigenvalues grow in magnitude during the training. | qualitative (figure B.4) | The largest and the
        median modulus after the training, over that at the start, each the smallest over seeds
    P3 | published | The phases of the eigenvalues spread during the training. | qualitative (figure B.4) | Entropy of
        the histogram of phases in 16 bins (1: uniform), last minus first checkpoint, smallest over seeds
    P4 | published | The discriminator's share in the eigenvectors is banded: it depends on the magnitude of the
        eigenvalue. | qualitative (figure 4.7) | The fraction of the variance of the share that lies between 16 equally
        filled bins of the modulus (adjusted for chance), after the training, smallest over seeds; the bar is ours.
        Shares depend on the units of the parameters | the test is not the statement: bands there are seen in modulus
        and phase, and a quarter of the variance is an invented bar (notes)
    """,
    {
        "P1": (smallest(lambda start, end: end, "real", "imaginary"), at_least(0.02), {"real": 0.9, "imaginary": 0.01}),
        "P2": (smallest(lambda start, end: end / start, "radius", "median"), above(1), {"radius": 3.0, "median": 0.9}),
        "P3": (smallest(lambda start, end: end - start, "entropy"), above(0), -0.1),
        "P4": (smallest(lambda start, end: end, "bands"), at_least(0.25), 0.17),
    },
)

RECIPE = Recipe(
    name="complex/gan-spectrum",
    title="Eigenvalues of the game Jacobian of a small GAN during its training",
    source="Lorraine, Acuna, Vicol, Duvenaud 2022 (AISTATS), on the spectra of GANs; figures 4.7 and B.4 of the "
    "thesis of Lorraine",
    scales={
        "smoke": Protocol((0, 20), 1, width=4, batch_size=16, jacobian_batch_size=16),
        "laptop": Protocol((0, 1_000, 5_000, 10_000), 3),
        "paper": Protocol((0, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000), 10),
    },
    cells=lambda protocol: {"training": {}},
    measure=measure,
    summarize=lambda results: {"checkpoints": results.protocol.checkpoints, "seeds": results["training"]},
    tables=tables,
    pictures=pictures,
    x64=True,  # eigenvalues of a matrix that is far from normal need the digits
    claims=CLAIMS,
)
