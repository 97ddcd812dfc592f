"""A GAN on eight Gaussians, trained by alternating descent with complex momentum over a grid of coefficients."""

import cmath
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ... import networks, problems
from ..._problem import Players
from .. import Metrics, Recipe, Results, Trial, at_least, below, claims, each, heat_maps, measured
from ._common import alternating, is_real, momentum_grid, scored

CAP = 1e6
"""The negative log-likelihood of a generator whose points are further off than that, or not finite."""

PUBLISHED_BEST = cmath.rect(0.7, math.pi / 8)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of the figures."""

    learning_rates: tuple[float, ...]
    moduli: tuple[float, ...]
    phases_over_pi: tuple[float, ...]
    num_steps: int
    num_seeds: int
    checkpoints: int  # equally spaced; the later half of them is scored
    width: int  # of all hidden layers
    depth: int  # hidden layers of each network
    num_points: int  # generated for a score
    loss: str = "non-saturating"  # not given
    std: float = 0.05  # of the Gaussians; not given
    batch_size: int = 256  # not given


def game(protocol: Protocol) -> problems.MixtureGAN:
    network = networks.MLP((protocol.width,) * protocol.depth, "relu", init_scale=None)
    return problems.MixtureGAN(protocol.loss, network, network, std=protocol.std, batch_size=protocol.batch_size)


@eqx.filter_jit
def scores(problem: problems.MixtureGAN, num: int, players: Players, key: PRNGKeyArray) -> dict[str, Array]:
    points = problem.generate(players, key, num)
    coverage, nll = problem.mode_coverage(points), problem.negative_log_likelihood(points)
    return {"nll": nll, "modes": coverage.num_modes, "high_quality": coverage.high_quality}


def measure(trial: Trial, learning_rate: float, modulus: float, phase_over_pi: float) -> dict[str, Any]:
    problem, optimizer = game(trial.protocol), alternating(learning_rate, modulus, phase_over_pi)
    look = functools.partial(scores, problem, trial.protocol.num_points)
    return scored(trial, problem, optimizer, look, {"nll": CAP, "modes": 0, "high_quality": 0.0}, CAP)[0]


def summarize(results: Results) -> Metrics:
    runs = results.nested(lambda seeds: {key: [one[key] for one in seeds] for key in seeds[0]})
    for name, settings in results.cells.items():
        rate, momentum = name.split("/")
        runs[rate][momentum] |= {key: settings[key] for key in ("modulus", "phase_over_pi")}
    data = eqx.filter_jit(problems.MixtureGAN.entropy)(game(results.protocol), jax.random.key(results.seed))
    return {"runs": runs, "data": data, "cap": CAP}


def late(values: list[Any]) -> float:
    """The score of a run: the median over the later half of its checkpoints."""
    return float(np.median(values[len(values) // 2 :]))


def score(row: dict[str, Any]) -> float:
    """The negative log-likelihood of a coefficient: median over seeds. Low is good, but not below the data."""
    return float(np.median([late(values) for values in row["nll"]]))


def coverage(row: dict[str, Any]) -> float:
    """The number of modes that are covered with a coefficient: mean over seeds."""
    return float(np.mean([late(values) for values in row["modes"]]))


def of_kind(rows: dict[str, Any], real: bool) -> dict[str, Any]:
    """The rows with a real coefficient (zero included), or those with one that is not real."""
    return {name: row for name, row in rows.items() if is_real(row) == real}


def best(rows: dict[str, Any], real: bool) -> tuple[float, str]:
    """Score and name of the best coefficient of one kind."""
    return min((score(row), name) for name, row in of_kind(rows, real).items())


TITLES = {"nll": "negative log-likelihood", "modes": "modes", "high_quality": "near a mode"}


def tables(metrics: Metrics) -> dict[str, Any]:
    return {
        f"Learning rate {rate}: negative log-likelihood; modes covered; share of points within three deviations of a "
        "mode. Means over seeds [range] of the medians over late checkpoints": {
            name: {title: [late(values) for values in row[key]] for key, title in TITLES.items()}
            for name, row in sorted(rows.items(), key=lambda item: score(item[1]))
        }
        for rate, rows in metrics["runs"].items()
    }


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    maps = {}
    for rate, rows in metrics["runs"].items():
        by_pair = {(row["modulus"], row["phase_over_pi"]): math.log10(score(row) + 3) for row in rows.values()}
        phases = results.protocol.phases_over_pi
        maps[f"learning rate {rate}"] = {
            f"{m:g}": {f"{p:g}": by_pair[m, p if m else 0.0] for p in phases} for m in results.protocol.moduli
        }
    return {"scores": heat_maps(maps, ("arg β / π", "|β|; log₁₀ (negative log-likelihood + 3)"), ".2f")}


@measured
def by_rate(metrics: Metrics, of: Callable[[dict[str, Any]], Any]) -> dict[str, float]:
    """A number of the rows of every learning rate."""
    return {rate: round(float(of(rows)), 3) for rate, rows in metrics["runs"].items()}


def gap(rows: dict[str, Any]) -> float:
    """Best complex minus best real negative log-likelihood."""
    return best(rows, False)[0] - best(rows, True)[0]


def share_ahead(rows: dict[str, Any]) -> Any:
    """The share of the non-real coefficients that beat every real one."""
    bar = best(rows, True)[0]
    return np.mean([score(row) < bar for row in of_kind(rows, False).values()])


def modes_gap(rows: dict[str, Any]) -> float:
    """Most modes covered with a complex minus with a real coefficient."""
    most = {real: max(coverage(row) for row in of_kind(rows, real).values()) for real in (True, False)}
    return most[False] - most[True]


def best_momentum(metrics: Metrics) -> dict[str, Any]:
    """The coefficient that is best over the whole grid, and its distance from the published one."""
    _, rate, name = min((score(row), rate, n) for rate, rows in metrics["runs"].items() for n, row in rows.items())
    row = metrics["runs"][rate][name]
    beta = cmath.rect(row["modulus"], math.pi * row["phase_over_pi"])
    return {"momentum": name, "learning_rate": float(rate), "distance": round(abs(beta - PUBLISHED_BEST), 3)}


def held_out(metrics: Metrics) -> float | None:
    """How often the best complex coefficient beats the best real one on a seed that chose neither."""
    wins = []
    for rows in metrics["runs"].values():
        scores = {name: [late(values) for values in row["nll"]] for name, row in rows.items()}
        num_seeds = len(next(iter(scores.values())))
        for held in range(num_seeds if num_seeds > 1 else 0):
            others = {name: float(np.median(v[:held] + v[held + 1 :])) for name, v in scores.items()}
            ours, theirs = (min(of_kind(rows, real), key=lambda name, o=others: o[name]) for real in (False, True))
            wins.append(scores[ours][held] < scores[theirs][held])
    return round(float(np.mean(wins)), 3) if wins else None


def modes_of_best(metrics: Metrics) -> dict[str, float]:
    """Modes covered by the coefficient of each kind with the lowest negative log-likelihood of all."""
    out = {}
    for kind, real in (("complex", False), ("real", True)):
        (_, name), rate = min((best(rows, real), rate) for rate, rows in metrics["runs"].items())
        out[kind] = round(coverage(metrics["runs"][rate][name]), 3)
    return out


CLAIMS = claims(
    """
    G1 | published | For every learning rate the best complex momentum has a lower negative log-likelihood than the best
        real one. | qualitative (figures B.5 and B.6) | Best complex minus best real, medians over seeds, by learning
        rate | budget: networks of 2 × 64 and 5,000 of 100,000 updates; one collapsed coefficient decides (notes)
    G2 | published | The best momentum coefficient is about 0.7 exp(πi/8). | 0.7 exp(πi/8) (section 4.4.3) | The best of
        the grid, over all learning rates; its distance from the published one in the complex plane is below 0.25, that
        to the neighbours on the coarse grid | budget, as G1
    G3 | published | For every learning rate a broad set of non-real coefficients beats every real one. | qualitative
        (figure B.5) | The share of the non-real coefficients of the grid that do, by learning rate; one third is ours
        | budget, as G1
    G4 | ours | The advantage of complex momentum is seen on seeds that had no part in choosing the coefficients. | none
        | The share of pairs (learning rate, held-out seed) in which the complex coefficient that is best on the other
        seeds beats the real one that is | budget: 6 pairs
    G5 | ours | For every learning rate complex momentum covers at least as many modes as real momentum can. | the
        source reports the negative log-likelihood alone | Most modes with a complex minus most with a real coefficient,
        means over seeds, by learning rate
    G6 | control | The lowest negative log-likelihood is no collapse: the best complex coefficient covers at least half
        of the modes, and at least as many as the best real one. | ours; a generator that has collapsed to one mode
        scores as well as a perfect one | Modes covered by the coefficient of each kind with the lowest negative
        log-likelihood; complex at least 4 of 8
    """,
    {
        "G1": (by_rate(gap), below(0), {"0.03": -1.0, "0.01": 0.1}),
        "G2": (best_momentum, each(distance=below(0.25)), {"distance": 0.3}),
        "G3": (by_rate(share_ahead), at_least(1 / 3), {"0.03": 0.5, "0.01": 0.1}),
        "G4": (held_out, at_least(0.75), 0.5),
        "G5": (by_rate(modes_gap), at_least(0), {"0.03": 1.0, "0.01": -0.5}),
        "G6": (modes_of_best, lambda value: value["complex"] >= max(4, value["real"]), {"complex": 3, "real": 2}),
    },
)

_PHASES, _RATES = (0.0, 0.125, 0.25, 0.5, 1.0), (0.001, 0.003, 0.01, 0.03)
_ALL_MODULI, _ALL_PHASES = tuple(round(0.1 * i, 1) for i in range(10)), tuple(i / 8 for i in range(9))

RECIPE = Recipe(
    name="complex/gan-2d",
    title="A GAN on eight Gaussians, trained with complex momentum",
    source="Lorraine, Acuna, Vicol, Duvenaud 2022 (AISTATS), on the mixture of Gaussians; figures B.5 and B.6 of the "
    "thesis of Lorraine",
    scales={
        "smoke": Protocol((0.03,), (0.0, 0.7), (0.0, 0.125), 20, 2, 2, 4, 1, 100, batch_size=16),
        "laptop": Protocol((0.03, 0.01), (0.0, 0.5, 0.7, 0.9), _PHASES, 5_000, 3, 5, 64, 2, 5_000),
        "paper": Protocol(_RATES, _ALL_MODULI, _ALL_PHASES, 100_000, 3, 10, 256, 4, 100_000),
    },
    axes=("learning_rates", "moduli", "phases_over_pi"),
    cells=lambda protocol: {
        f"{rate:g}/{name}": {"learning_rate": rate, **momentum}
        for rate in protocol.learning_rates
        for name, momentum in momentum_grid(protocol.moduli, protocol.phases_over_pi).items()
    },
    measure=measure,
    summarize=summarize,
    tables=tables,
    pictures=pictures,
    claims=CLAIMS,
)
