"""What the recipe `lyapunov/ipd-diversity` measures: which modes of the dilemma searches and restarts find."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ... import dynamics, optimizers, problems
from .. import Trial
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
