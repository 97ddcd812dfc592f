"""Table 5.1: which solutions of the iterated prisoner's dilemma a bifurcation search finds, and what restarts find."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ... import dynamics, optimizers, problems
from .. import Claim, Recipe, Trial, at, at_least, at_most, values
from .._runner import spreads
from . import PAPER
from ._restarts import restarts

SGD = ("search", "random-start", "random-directions", "published", "restarts", "short-restarts", "narrow-restarts")
LOLA = ("search", "random-start", "random-directions", "published", "restarts", "short-restarts", "wide-restarts")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings of the search; those of LOLA's start and step and of the draws were fixed on other seeds."""

    num_steps: int = 1_000  # of the optimizer per branch
    num_starts: int = 20  # per batch; a repetition is a batch
    num_draws: int = 300  # among which the start of descent is the one with the largest exponent
    rank_steps: int = 30  # over so many steps
    published_steps: int = 300  # of ascent on the exponent of one step, as published
    lola_ascent: int = 10  # steps of that ascent for LOLA: longer ones lose cooperation
    sgd_rate: float = 10.0
    sgd_jump: float = 2.0
    lola_jumps: tuple[float, ...] = (1.0, 3.0, 4.0)  # the short one keeps cooperation, the long ones leave it
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
    method = _method(p, optimizer, variant)
    trees = [dynamics.branch(game, player, method, key=key, batch_size=20) for key in keys]
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


def _method(p: Protocol, optimizer: str, variant: str) -> dynamics.Branching:
    ranked = dynamics.RankedStart(p.num_draws, p.rank_steps)
    start = ranked if optimizer == "sgd" else dynamics.AscentStart(p.lola_ascent)
    directions: dynamics.AbstractDirections = dynamics.SingularDirections()
    jumps = (p.sgd_jump,) if optimizer == "sgd" else p.lola_jumps
    if variant == "random-start":
        start = dynamics.RandomStart()
    elif variant == "random-directions":
        directions = dynamics.RandomDirections(6 if optimizer == "sgd" else 4)
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
    return {"Means over batches [range]": rows, "Table 5.1: the first player, all solutions": metrics["policies"]}


def summarize(results: Any) -> dict[str, Any]:
    policies = {}
    for name, batches in results.items():
        row = {}
        for state in batches[0]["policies"]:
            low, high = (f(b["policies"][state][i] for b in batches) for i, f in enumerate((min, max)))
            row[state] = f"{low:.3f}, {high:.3f}"
        policies[name] = row
    return {"cells": {name: spreads(batches) for name, batches in results.items()}, "policies": policies}


def _both(name: str, **kwargs: Any) -> Any:
    return at("cells", name, "both", "mean", **kwargs)


STRICT = "Share of 20 starts whose solutions hold one with both losses below 1.1 and one with both above 1.9; mean of 3"
RECIPE = Recipe(
    name="lyapunov/ipd-diversity",
    title="Different solutions of the iterated prisoner's dilemma",
    source=f"{PAPER}, table 1",
    scales={
        "smoke": Protocol(
            3, 1, 3, 2, 2, 1, num_restarts=2, short_steps=2, num_seeds=1, sgd=SGD[:1] + SGD[4:5], lola=()
        ),
        "laptop": Protocol(),
        "paper": Protocol(num_seeds=10),
    },
    axes=("sgd", "lola"),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    x64=True,
    claims=(
        Claim(
            id="D1",
            statement="With gradient descent the search finds both modes from at least 90 % of the starts.",
            published="one start: losses from 1.000 to 2.000",
            value=_both("sgd/search"),
            holds=at_least(0.9),
            tolerance=f"{STRICT} batches",
            kind="ours",
            fails=0.85,
        ),
        Claim(
            id="D2",
            statement="With LOLA the search finds both modes from at least 90 % of the starts.",
            published="one start: losses from 1.000 to 2.000",
            value=_both("lola/search"),
            holds=at_least(0.9),
            tolerance=f"{STRICT} batches",
            kind="ours",
            fails=0.85,
        ),
        Claim(
            id="D3",
            statement="From the median start the best and the worst loss are those of the two modes, 1 and 2.",
            published="1.000, 2.000 for both optimizers",
            value=lambda m: [
                abs(v - mode)
                for name in ("sgd/search", "lola/search")
                for key, mode in (("median_lowest", 1.0), ("median_highest", 2.0))
                for v in m["cells"][name][key]["values"]
            ],
            holds=at_most(0.05),
            tolerance="Distance from 1 and 2 of the extreme losses of the first player, median over a batch's starts",
            fails=[0.0, 0.5],
        ),
        Claim(
            id="D4",
            statement="Branching at a random start, with the same steps and directions, finds both from half of the "
            "starts at most: the start matters.",
            published="one start, descent: losses from 2.000 to 2.000",
            value=_both("sgd/random-start"),
            holds=at_most(0.5),
            tolerance=f"{STRICT} batches; gradient descent",
            kind="control",
            fails=0.6,
        ),
        Claim(
            id="D5",
            statement="20 long restarts of gradient descent from narrow initial points, at the cost of a search, end "
            "in mutual defection.",
            published="1.997, 1.998",
            value=values(
                at("cells", "sgd/narrow-restarts", "lowest", "values"),
                at("cells", "sgd/narrow-restarts", "highest", "values"),
            ),
            holds=at_least(1.99),
            tolerance="Extreme losses of the first player in any batch",
            fails=[1.9],
        ),
        Claim(
            id="D6",
            statement="20 restarts of LOLA cooperate, and none defects.",
            published="1.000, 1.396",
            value=at("cells", "lola/restarts", "defect", "mean"),
            holds=at_most(0.0),
            tolerance="Share of sets of 20 with a solution of both losses above 1.9",
            fails=0.05,
        ),
        Claim(
            id="D7",
            statement="The search as published (300 steps of ascent on the exponent of one step, eigenvectors, a step "
            "of length 1) finds both modes from at least 90 % of the starts, with either optimizer.",
            published="one start: losses from 1.000 to 2.000",
            value=values(_both("sgd/published"), _both("lola/published")),
            holds=at_least(0.9),
            tolerance=f"{STRICT} batches",
            fails=[0.5, 0.5],
        ),
        Claim(
            id="D8",
            statement="At the searched start random directions find both modes hardly less often: the start does the "
            "work, not the directions.",
            published="none",
            value=lambda m: [m["cells"][f"{o}/{v}"]["both"]["mean"] for o in ("sgd",) for v in SGD[2:3]],
            holds=at_least(0.8),
            tolerance=f"{STRICT} batches; as many directions as the search has",
            kind="control",
            fails=[0.5],
        ),
        Claim(
            id="D9",
            statement="At equal total gradients 20 long restarts of gradient descent find both modes from half of the "
            "starts at most.",
            published="none",
            value=_both("sgd/restarts"),
            holds=at_most(0.5),
            tolerance=f"{STRICT} batches",
            kind="control",
            fails=0.7,
        ),
        Claim(
            id="D10",
            statement="The search finds both modes more often than as many short restarts (100 steps) as its gradients "
            "allow, by at least 5 points.",
            published="none",
            value=lambda m: round(
                m["cells"]["sgd/search"]["both"]["mean"] - m["cells"]["sgd/short-restarts"]["both"]["mean"], 4
            ),
            holds=at_least(0.05),
            tolerance="Difference of the shares, gradient descent",
            kind="control",
            fails=0.0,
        ),
        Claim(
            id="D12",
            statement="With LOLA the search finds both modes more often than the same branches at a random start, by "
            "at least 5 points.",
            published="none",
            value=lambda m: round(
                m["cells"]["lola/search"]["both"]["mean"] - m["cells"]["lola/random-start"]["both"]["mean"], 4
            ),
            holds=at_least(0.05),
            tolerance="Difference of the shares; the jumps do most of the work",
            kind="control",
            fails=0.0,
        ),
        Claim(
            id="D11",
            statement="LOLA from wide initial points finds both modes by restarts alone in at most half of the sets.",
            published="none",
            value=_both("lola/wide-restarts"),
            holds=at_most(0.5),
            tolerance="Initial logits of standard deviation 3; 20 long restarts",
            kind="control",
            fails=0.9,
        ),
    ),
)
