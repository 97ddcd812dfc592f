"""Table 5.1: which solutions of the iterated prisoner's dilemma a bifurcation search finds, and what restarts find.

A start counts if its solutions hold one with both losses below 1.1 and one with both above 1.9.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ... import dynamics, optimizers, problems
from .. import Recipe, Trial, at, at_least, at_most, claims, values
from .._runner import spreads
from . import PAPER
from ._restarts import restarts

SGD = (
    "search",
    "random-start",
    "random-directions",
    "random-both",
    "published",
    "restarts",
    "short-restarts",
    "narrow-restarts",
)
LOLA = (
    "search",
    "random-start",
    "random-directions",
    "random-both",
    "published",
    "restarts",
    "short-restarts",
    "wide-restarts",
)
SMOKE = ("search", "restarts")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings of the search; those of LOLA's start and step and of the draws were fixed on other seeds."""

    num_steps: int = 1_000  # of the optimizer per branch
    num_starts: int = 20  # per batch; a repetition is a batch
    num_draws: int = 300  # among which the start of descent is the one with the largest exponent
    rank_steps: int = 30  # over so many steps
    published_steps: int = 300  # of ascent on the exponent of one step, as published
    lola_ascent: int = 25  # steps of that ascent for LOLA: fewer miss defection, more lose cooperation
    sgd_rate: float = 10.0
    sgd_jump: float = 2.0
    lola_jumps: tuple[float, ...] = (2.0, 3.0)  # the short one keeps cooperation, the long one leaves it
    lola_scale: float = 0.5  # of LOLA's initial points
    num_restarts: int = 20  # long ones, of together the cost of a search
    short_steps: int = 100  # of short ones, of together the same cost
    num_seeds: int = 3
    sgd: tuple[str, ...] = SGD  # cells of gradient descent
    lola: tuple[str, ...] = LOLA


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    return {
        f"{optimizer}/{variant}": {"optimizer": optimizer, "variant": variant}
        for optimizer, variants in (("sgd", protocol.sgd), ("lola", protocol.lola))
        for variant in variants
    }


def measure(trial: Trial, optimizer: str, variant: str) -> dict[str, Any]:
    p = trial.protocol
    scale = {"wide-restarts": 3.0, "narrow-restarts": 0.5}.get(variant, 1.0 if optimizer == "sgd" else p.lola_scale)
    game = problems.iterated_prisoners_dilemma(init_scale=scale)
    rate = 1.0 if variant == "published" else p.sgd_rate
    player = optimizers.sgd(rate) if optimizer == "sgd" else optimizers.LOLA(1.0, opponent_rate=10.0)
    keys = jax.random.split(trial.key, p.num_starts)
    if variant.endswith("restarts"):
        cost = np.mean([r["gradients"] for r in trial.results[f"{optimizer}/search"]])
        per_step = 1 if optimizer == "sgd" else 4
        if variant == "short-restarts":
            num, num_steps = max(int(cost / per_step / p.short_steps), 1), p.short_steps
        else:
            num, num_steps = p.num_restarts, max(int(cost / per_step / p.num_restarts), 1)
        batch, losses = restarts(game, player, trial.key, num * p.num_starts, num_steps)
        sets = list(losses.reshape(p.num_starts, num, 2))
        policies = np.asarray(jax.vmap(lambda x: game.policies(x)[0][:, 0])(batch))
        return {**_summary(sets, policies), "gradients": float(num * num_steps * per_step), "runs": float(num)}
    methods = [_method(p, optimizer, variant, trial.seed + i) for i in range(p.num_starts)]
    trees = [dynamics.branch(game, player, m, key=key, batch_size=20) for m, key in zip(methods, keys)]
    sets = [tree.losses[1:] for tree in trees]
    policies = np.concatenate(
        [np.array([game.policies(tree.players(i))[0][:, 0] for i in range(1, len(tree.parents))]) for tree in trees]
    )
    return {
        **_summary(sets, policies),
        "gradients": float(np.mean([tree.num_gradients for tree in trees])),
        "runs": float(np.mean([tree.num_branches for tree in trees])),
        "exponent": float(np.mean([tree.facts.get("exponent", np.nan) for tree in trees])),
    }


def _method(p: Protocol, optimizer: str, variant: str, seed: int) -> dynamics.Branching:
    ranked = dynamics.RankedStart(p.num_draws, p.rank_steps)
    start = ranked if optimizer == "sgd" else dynamics.AscentStart(p.lola_ascent)
    directions: dynamics.AbstractDirections = dynamics.SingularDirections()
    jumps = (p.sgd_jump,) if optimizer == "sgd" else p.lola_jumps
    if variant in ("random-start", "random-both"):
        start = dynamics.RandomStart()
    if variant in ("random-directions", "random-both"):
        directions = dynamics.RandomDirections(6 if optimizer == "sgd" else 5, seed)  # about as many as the search has
    elif variant == "published":
        start, directions, jumps = dynamics.AscentStart(p.published_steps), dynamics.EigenDirections(), (1.0,)
    return dynamics.generalized_ridge_rider(start, directions, tuple(map(dynamics.Jump, jumps)), p.num_steps)


def _summary(sets: list[np.ndarray], policies: np.ndarray) -> dict[str, Any]:
    """Shares of the sets that hold each mode, and ranges over all solutions: of losses, and of probabilities."""
    cooperate = np.array([bool(np.any(np.all(s < 1.1, axis=1))) for s in sets])
    defect = np.array([bool(np.any(np.all(s > 1.9, axis=1))) for s in sets])
    losses = np.concatenate([s[:, 0] for s in sets])
    extremes = np.array([[np.nanmin(s[:, 0]), np.nanmax(s[:, 0])] for s in sets])
    ranges = {
        name: [float(np.nanmin(x)), float(np.nanmax(x))]
        for name, x in zip(("C0", "C|CC", "C|CD", "C|DC", "C|DD"), policies.T)
    }
    return {
        "both": float(np.mean(cooperate & defect)),
        "cooperate": float(np.mean(cooperate)),
        "defect": float(np.mean(defect)),
        "median_lowest": float(np.median(extremes[:, 0])),
        "median_highest": float(np.median(extremes[:, 1])),
        "lowest": float(np.nanmin(losses)),
        "highest": float(np.nanmax(losses)),
        "policies": ranges,
    }


def tables(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = {
        name: {
            "starts with both modes": cell["both"],
            "with cooperation": cell["cooperate"],
            "with defection": cell["defect"],
            "lowest loss": cell["lowest"],
            "highest loss": cell["highest"],
            "runs": cell["runs"],
            "gradients": cell["gradients"],
        }
        for name, cell in metrics["cells"].items()
        if cell
    }
    return {
        "Share of 20 starts with both losses below 1.1 in one solution, and above 1.9 in another [range]": rows,
        "Table 5.1: the first player, all solutions": metrics["policies"],
    }


def summarize(results: Any) -> dict[str, Any]:
    policies = {}
    for name, batches in results.items():
        row = {}
        for state in batches[0]["policies"]:
            low, high = (f(b["policies"][state][i] for b in batches) for i, f in enumerate((min, max)))
            row[state] = f"{low:.3f}, {high:.3f}"
        policies[name] = row
    return {"cells": {name: spreads(batches) for name, batches in results.items()}, "policies": policies}


def _both(name: str) -> Any:
    return at("cells", name, "both", "mean")


CLAIMS = """
D1 | ours | With gradient descent the search finds both modes from at least 90 % of the starts. | one start: losses
    from 1.000 to 2.000 | Share of starts, see below; mean of 3 batches
D2 | ours | With LOLA the search finds both modes from at least 90 % of the starts. | one start: losses from 1.000 to
    2.000 | Share of starts, mean of 3 batches
D3 | published | From the median start the best and the worst loss are those of the two modes, 1 and 2. | 1.000, 2.000
    for both optimizers | Distance from 1 and 2 of the extreme losses of the first player, median over a batch's
    starts
D4 | control | Branching at a random start, with the same steps and directions, finds both from half of the starts at
    most: the start matters. | one start, descent: losses from 2.000 to 2.000 | Share of starts; gradient descent
D5 | published | 20 long restarts of gradient descent from narrow initial points, at the cost of a search, end in
    mutual defection. | 1.997, 1.998 | Extreme losses of the first player in any batch
D6 | published | 20 restarts of LOLA cooperate, and none defects. | 1.000, 1.396 | Share of sets of 20 with a solution
    of both losses above 1.9
D7 | published | The search as published (300 steps of ascent on the exponent of one step, eigenvectors, a step of
    length 1) finds both modes from at least 90 % of the starts, with either optimizer. | one start: losses from 1.000
    to 2.000 | Share of starts
D8 | control | With gradient descent random directions at the searched start find both modes hardly less often: the
    start does the work, not the directions. | none | Share of starts; about as many directions as the search has
D9 | control | At equal total gradients 20 long restarts of gradient descent find both modes from half of the starts
    at most. | none | Share of sets
D10 | control | The search finds both modes more often than as many short restarts (100 steps) as its gradients allow,
    by at least 5 points. | none | Difference of the shares, gradient descent
D11 | control | LOLA from wide initial points finds both modes by restarts alone in at most half of the sets. | none |
    Share of sets; initial logits of standard deviation 3; 20 long restarts
D12 | control | With LOLA the search finds both modes more often than the same branches at a random start, by at least
    20 points. | none | Difference of the shares
D13 | control | Jumps of the same lengths in random directions from a random start find both modes from half of the
    starts at most, with either optimizer. | none | Shares of starts; about as many branches as the search has
D14 | control | With LOLA the search finds both modes more often than along random directions from the same start, by
    at least 20 points: there the directions matter, too. | none | Difference of the shares
"""


def _extremes(m: dict[str, Any]) -> list[float]:
    modes = (("median_lowest", 1.0), ("median_highest", 2.0))
    names = ("sgd/search", "lola/search")
    return [abs(v - mode) for name in names for key, mode in modes for v in m["cells"][name][key]["values"]]


def _ahead(first: str, second: str) -> Any:
    def value(m: dict[str, Any]) -> float:
        return round(_both(first)(m) - _both(second)(m), 4)

    return value


NARROW = ("cells", "sgd/narrow-restarts")
RECIPE = Recipe(
    name="lyapunov/ipd-diversity",
    title="Different solutions of the iterated prisoner's dilemma",
    source=f"{PAPER}, table 1",
    scales={
        "smoke": Protocol(3, 1, 3, 2, 2, 1, num_restarts=2, short_steps=2, num_seeds=1, sgd=SMOKE, lola=()),
        "laptop": Protocol(),
        "paper": Protocol(num_seeds=10),
    },
    axes=("sgd", "lola"),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    x64=True,
    claims=claims(
        CLAIMS,
        {
            "D1": (_both("sgd/search"), at_least(0.9), 0.85),
            "D2": (_both("lola/search"), at_least(0.9), 0.85),
            "D3": (_extremes, at_most(0.05), [0.0, 0.5]),
            "D4": (_both("sgd/random-start"), at_most(0.5), 0.6),
            "D5": (values(at(*NARROW, "lowest", "values"), at(*NARROW, "highest", "values")), at_least(1.99), [1.9]),
            "D6": (at("cells", "lola/restarts", "defect", "mean"), at_most(0.0), 0.05),
            "D7": (values(_both("sgd/published"), _both("lola/published")), at_least(0.9), [0.5, 0.5]),
            "D8": (_both("sgd/random-directions"), at_least(0.8), 0.5),
            "D9": (_both("sgd/restarts"), at_most(0.5), 0.7),
            "D10": (_ahead("sgd/search", "sgd/short-restarts"), at_least(0.05), 0.0),
            "D11": (_both("lola/wide-restarts"), at_most(0.5), 0.9),
            "D12": (_ahead("lola/search", "lola/random-start"), at_least(0.2), 0.1),
            "D13": (values(_both("sgd/random-both"), _both("lola/random-both")), at_most(0.5), [0.1, 0.6]),
            "D14": (_ahead("lola/search", "lola/random-directions"), at_least(0.2), 0.1),
        },
    ),
)
