"""What is claimed of complex momentum on the mixture GAN, as predicates on the recipe's metrics."""

import cmath
import math
from typing import Any

import numpy as np

from .._recipe import Claim, Metrics
from ._gan import is_real

CAP = 1e6
"""The negative log-likelihood of a generator whose points are further off than that, or not finite."""

PUBLISHED_BEST = cmath.rect(0.7, math.pi / 8)


def late(values: list[Any]) -> float:
    """The score of a run: the median over the later half of its checkpoints."""
    return float(np.median(values[len(values) // 2 :]))


def score(row: dict[str, Any]) -> float:
    """The negative log-likelihood of a momentum coefficient: median over seeds. Low is good, but not below the data."""
    return float(np.median([late(values) for values in row["nll"]]))


def coverage(row: dict[str, Any]) -> float:
    """The number of modes that are covered with a momentum coefficient: mean over seeds."""
    return float(np.mean([late(values) for values in row["modes"]]))


def quality(row: dict[str, Any]) -> float:
    """The share of points within three standard deviations of a mode: mean over seeds."""
    return float(np.mean([late(values) for values in row["high_quality"]]))


def of_kind(rows: dict[str, Any], real: bool) -> dict[str, Any]:
    """The rows with a real momentum coefficient (zero included), or those with one that is not real."""
    return {name: row for name, row in rows.items() if is_real(row["modulus"], row["phase_over_pi"]) == real}


def best(rows: dict[str, Any], real: bool) -> tuple[float, str]:
    """Score and name of the best coefficient of one kind."""
    return min((score(row), name) for name, row in of_kind(rows, real).items())


def _gaps(metrics: Metrics) -> dict[str, float]:
    """By learning rate: best complex minus best real negative log-likelihood."""
    return {rate: round(best(rows, False)[0] - best(rows, True)[0], 3) for rate, rows in metrics["runs"].items()}


def _best_momentum(metrics: Metrics) -> dict[str, Any]:
    """The coefficient that is best over the whole grid, and its distance from the published one."""
    _, rate, name = min(
        (score(row), rate, name) for rate, rows in metrics["runs"].items() for name, row in rows.items()
    )
    row = metrics["runs"][rate][name]
    beta = cmath.rect(row["modulus"], math.pi * row["phase_over_pi"])
    return {"momentum": name, "learning_rate": float(rate), "distance": round(abs(beta - PUBLISHED_BEST), 3)}


def _broad(metrics: Metrics) -> dict[str, float]:
    """By learning rate: the share of the non-real coefficients that beat every real one."""
    out = {}
    for rate, rows in metrics["runs"].items():
        bar = best(rows, True)[0]
        out[rate] = round(float(np.mean([score(row) < bar for row in of_kind(rows, False).values()])), 3)
    return out


def _held_out(metrics: Metrics) -> float | None:
    """How often the best complex coefficient beats the best real one on a seed that chose neither."""
    wins = []
    for rows in metrics["runs"].values():
        num_seeds = len(next(iter(rows.values()))["nll"])
        for held in range(num_seeds if num_seeds > 1 else 0):
            scores = {}
            for real in (True, False):
                others = {
                    name: np.median([late(v) for i, v in enumerate(row["nll"]) if i != held])
                    for name, row in of_kind(rows, real).items()
                }
                chosen = min(others, key=lambda name, others=others: others[name])
                scores[real] = late(rows[chosen]["nll"][held])
            wins.append(scores[False] < scores[True])
    return round(float(np.mean(wins)), 3) if wins else None


def _modes_gap(metrics: Metrics) -> dict[str, float]:
    """By learning rate: most modes covered with a complex minus with a real coefficient."""
    out = {}
    for rate, rows in metrics["runs"].items():
        most = {real: max(coverage(row) for row in of_kind(rows, real).values()) for real in (True, False)}
        out[rate] = round(most[False] - most[True], 3)
    return out


def _modes_of_best(metrics: Metrics) -> dict[str, float]:
    """Modes covered by the coefficient of each kind with the lowest negative log-likelihood of all."""
    out = {}
    for kind, real in (("complex", False), ("real", True)):
        (_, name), rate = min((best(rows, real), rate) for rate, rows in metrics["runs"].items())
        out[kind] = round(coverage(metrics["runs"][rate][name]), 3)
    return out


CLAIMS = (
    Claim(
        "G1",
        "For every learning rate the best complex momentum has a lower negative log-likelihood than the best real one.",
        "qualitative (figures B.5 and B.6)",
        _gaps,
        lambda value: max(value.values()) < 0,
        "Value: best complex minus best real, medians over seeds, by learning rate; all below 0. The grid has about as "
        "many complex as real coefficients, but the better of two selections says little where the gap is small: G4.",
    ),
    Claim(
        "G2",
        "The best momentum coefficient is about 0.7 exp(πi/8).",
        "0.7 exp(πi/8) (section 4.4.3)",
        _best_momentum,
        lambda value: value["distance"] < 0.25,
        "Value: the best of the grid, over all learning rates, and its distance from the published one in the complex "
        "plane; below 0.25, the distance to the neighbours on the coarse grid.",
    ),
    Claim(
        "G3",
        "For every learning rate a broad set of non-real coefficients beats every real one.",
        "qualitative (figure B.5)",
        _broad,
        lambda value: min(value.values()) >= 1 / 3,
        "Value: the share of the non-real coefficients of the grid that do, by learning rate; each at least one third.",
    ),
    Claim(
        "G4",
        "The advantage of complex momentum is seen on seeds that had no part in choosing the coefficients.",
        "ours",
        _held_out,
        lambda value: value >= 0.75,
        "Value: the share of pairs (learning rate, held-out seed) in which the complex coefficient that is best on the "
        "other seeds beats the real one that is; at least three quarters.",
    ),
    Claim(
        "G5",
        "For every learning rate complex momentum covers at least as many modes as real momentum can.",
        "ours; the source reports the negative log-likelihood alone",
        _modes_gap,
        lambda value: min(value.values()) >= 0,
        "Value: most modes with a complex minus most with a real coefficient, means over seeds, by learning rate; none "
        "below 0.",
    ),
    Claim(
        "G6",
        "The lowest negative log-likelihood is no collapse: the best complex coefficient covers at least half of the "
        "modes, and at least as many as the best real one.",
        "ours; a generator that has collapsed to one mode scores as well as a perfect one",
        _modes_of_best,
        lambda value: value["complex"] >= max(4, value["real"]),
        "Value: modes covered by the coefficient of each kind with the lowest negative log-likelihood; 4 or more of 8.",
    ),
)
