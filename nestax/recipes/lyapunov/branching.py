"""Figure 5.4: branching at a saddle and at a point where runs rotate apart, in games of two scalars."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import dynamics, optimizers, problems
from .. import Claim, Recipe, Trial, at, at_least, at_most, equal, values
from . import PAPER
from ._planes import NAMES, modes


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Starts by gradient norm (Ridge Rider) or by exponents, then one step along each direction, then the optimizer."""

    num_steps: int = 10_000
    saddle_steps: int = 1_000
    num_draws: int = 100
    horizon: int = 100  # steps of the exponents by which a start is ranked
    ascent_steps: int = 100
    opponent_rate: float = 5.0
    jumps: tuple[float, ...] = (0.5, 1.0, 2.0)  # each is tried along every direction
    num_seeds: int = 5
    games: tuple[str, ...] = ("dilemma", "mixed")


CELLS = {
    "dilemma/saddle": {"game": "dilemma", "start": "saddle", "directions": "negative"},
    "dilemma/exponent": {"game": "dilemma", "start": "exponent", "directions": "eigen"},
    "mixed/saddle": {"game": "mixed", "start": "saddle", "directions": "negative"},
    "mixed/exponent": {"game": "mixed", "start": "exponent", "directions": "singular"},
    "mixed/random": {"game": "mixed", "start": "random", "directions": "singular"},
}


def measure(trial: Trial, game: str, start: str, directions: str) -> dict[str, Any]:
    p = trial.protocol
    if game == "dilemma":
        problem, player = problems.SmallPrisonersDilemma(), optimizers.sgd(1.0)
    else:
        problem, player = problems.mixed_dilemma(), optimizers.LOLA(1.0, opponent_rate=p.opponent_rate)
    near = dynamics.GivenStart((jnp.array(0.5), jnp.array(0.3)))  # a saddle is near, or is not
    starts = {
        "saddle": dynamics.SaddleStart(p.saddle_steps, optimizers.adam(0.02), near),
        "exponent": dynamics.AscentStart(
            p.ascent_steps, optimizers.adam(0.05), 10, start=dynamics.RankedStart(p.num_draws, p.horizon)
        ),
        "random": dynamics.RandomStart(),
    }
    kinds = {
        "negative": dynamics.NegativeCurvature(1e-5),
        "eigen": dynamics.EigenDirections(),
        "singular": dynamics.SingularDirections(),
    }
    method = dynamics.Branching(
        starts[start],
        kinds[directions],
        tuple(map(dynamics.Jump, p.jumps)),
        p.num_steps,
        metric=dynamics.ParameterDistance(1.0),
    )
    tree = dynamics.branch(problem, player, method, key=trial.key, batch_size=6)
    found = [NAMES[i] for i in modes(tree.ends[1:])]
    return {
        **{name: float(name in found) for name in NAMES},
        "modes": float(len({name for name in found if name != "other"})),
        "branches": float(tree.num_branches),
        "start": tree.ends[0],
        "values": [[float(v.real), float(v.imag)] for v in tree.values[1:]],
        "tree": str(tree),
    }


def summarize(results: Any) -> dict[str, Any]:
    return {
        "cells": {
            name: {k: float(np.mean([t[k] for t in trials])) for k in (*NAMES, "modes", "branches")}
            for name, trials in results.items()
        },
        "trees": {name: trials[0]["tree"] for name, trials in results.items()},
    }


def tables(metrics: dict[str, Any]) -> dict[str, Any]:
    trees = "".join(f"`{name}`\n\n```text\n{tree}\n```\n\n" for name, tree in metrics["trees"].items())
    return {"Shares of seeds whose tree holds each mode": metrics["cells"], "The trees of the first seed": trees}


RECIPE = Recipe(
    name="lyapunov/branching",
    title="Branching at a saddle and at a point of rotation",
    source=f"{PAPER}, figure 4",
    scales={
        "smoke": Protocol(5, 5, 3, 3, 2, num_seeds=1, games=("dilemma",)),
        "laptop": Protocol(),
        "paper": Protocol(num_seeds=20),
    },
    axes=("games",),
    cells=lambda protocol: {name: cell for name, cell in CELLS.items() if cell["game"] in protocol.games},
    measure=measure,
    summarize=summarize,
    tables=tables,
    x64=True,
    claims=(
        Claim(
            id="B1",
            statement="From the saddle of the small dilemma two branches find both modes.",
            published="defection and tit for tat (figure 4)",
            value=at("cells", "dilemma/saddle", "modes"),
            holds=equal(2),
            tolerance="Number of modes, mean over seeds",
            fails=1,
        ),
        Claim(
            id="B2",
            statement="In the mixture a start of a large exponent leads to both modes of LOLA.",
            published="both, from the Hopf point (figure 4)",
            value=values(at("cells", "mixed/exponent", "cooperate"), at("cells", "mixed/exponent", "centre")),
            holds=at_least(0.8),
            tolerance="Shares of seeds whose tree holds cooperation, and the centre",
            fails=[1.0, 0.0],
        ),
        Claim(
            id="B3",
            statement="There Ridge Rider's start has no direction of negative curvature to follow.",
            published="Ridge Rider does not apply: no saddle (figure 4)",
            value=at("cells", "mixed/saddle", "branches"),
            holds=at_most(0),
            tolerance="Number of branches",
            fails=2,
        ),
        Claim(
            id="B4",
            statement="From a random start the same branches find both modes of the mixture less often.",
            published="none",
            value=lambda m: m["cells"]["mixed/exponent"]["modes"] - m["cells"]["mixed/random"]["modes"],
            holds=at_least(0.2),
            tolerance="Difference of the mean numbers of modes",
            kind="control",
            fails=0.0,
        ),
    ),
)
