"""A game in which branching where runs separate finds what random restarts of the same cost do not."""

import dataclasses
from typing import Any

import numpy as np

from ... import dynamics, optimizers, problems
from .. import Claim, Recipe, Trial, above, at, at_least, at_most, below
from . import PAPER
from ._restarts import restarts

CELLS = ("search", "random-start", "random-directions", "short-restarts", "long-restarts", "wide-restarts")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The prisoner's dilemma with a third action, half cooperation: 40 parameters, modes of loss 1, 1.5 and 2."""

    init_scale: float = 0.35  # of the logits: between it and 1 restarts begin to find the middle mode
    learning_rate: float = 10.0
    num_draws: int = 300
    horizon: int = 100  # steps of the exponents
    jump: float = 2.5
    num_steps: int = 500  # per branch
    short_steps: int = 100
    num_sets: int = 2  # of restarts per repetition, each at the cost of one search
    num_seeds: int = 20
    variants: tuple[str, ...] = CELLS


MODES = {"cooperate": 1.0, "half": 1.5, "defect": 2.0}


def graded_dilemma(levels: int, init_scale: float) -> problems.IteratedMatrixGame:
    """The iterated prisoner's dilemma whose players choose among several degrees of cooperation $x \\in [0, 1]$.

    The losses are interpolated: $2 + x - 2 y$ for the own degree $x$ and the other's $y$.
    """
    degree = np.linspace(1, 0, levels)
    first = 2 + degree[:, None] - 2 * degree[None, :]
    return problems.IteratedMatrixGame(first, first.T, init_scale=init_scale)


def measure(trial: Trial, variant: str) -> dict[str, Any]:
    p = trial.protocol
    game = graded_dilemma(3, 1.0 if variant == "wide-restarts" else p.init_scale)
    player = optimizers.sgd(p.learning_rate)
    if variant.endswith("restarts"):
        cost = np.mean([r["gradients"] for r in trial.results["search"]])
        steps = 1_000 if variant == "long-restarts" else p.short_steps
        num = max(int(cost / steps), 1)
        _, losses = restarts(game, player, trial.key, num * p.num_sets, steps)
        sets = losses.reshape(p.num_sets, num, 2)
        return {**_found(sets), "runs": float(num), "gradients": float(num * steps)}
    start = dynamics.RandomStart() if variant == "random-start" else dynamics.RankedStart(p.num_draws, p.horizon)
    directions = dynamics.RandomDirections(20) if variant == "random-directions" else None
    method = dynamics.generalized_ridge_rider(start, directions, dynamics.Jump(p.jump), p.num_steps)
    tree = dynamics.branch(game, player, method, key=trial.key, batch_size=48)
    return {**_found(tree.losses[None, 1:]), "runs": float(tree.num_branches), "gradients": tree.num_gradients}


def _found(sets: np.ndarray) -> dict[str, float]:
    """Of each mode the share of sets that hold it: a solution where both losses are within 0.1 of the mode's."""
    return {
        name: float(np.mean(np.any(np.all(np.abs(sets - loss) < 0.1, axis=-1), axis=1))) for name, loss in MODES.items()
    }


RECIPE = Recipe(
    name="lyapunov/beyond",
    title="A mode of a larger matrix game that random restarts of equal cost do not find",
    source=f"{PAPER}; the game is ours",
    scales={
        "smoke": Protocol(
            num_draws=3,
            horizon=2,
            num_steps=3,
            short_steps=2,
            num_sets=2,
            num_seeds=1,
            variants=("search", "short-restarts"),
        ),
        "laptop": Protocol(),
        "paper": Protocol(num_seeds=50),
    },
    axes=("variants",),
    cells=lambda p: {name: {"variant": name} for name in p.variants},
    measure=measure,
    x64=True,
    claims=(
        Claim(
            id="X1",
            statement="The search finds half cooperation beside defection from at least half of the seeds.",
            published="none",
            value=at("cells", "search", "half", "mean"),
            holds=at_least(0.5),
            tolerance="Share of seeds whose tree holds a solution with both losses within 0.1 of 1.5",
            kind="ours",
            fails=0.2,
        ),
        Claim(
            id="X2",
            statement="Restarts from the same initial distribution hardly find it at the same cost, short or long.",
            published="none",
            value=lambda m: max(m["cells"][n]["half"]["mean"] for n in ("short-restarts", "long-restarts")),
            holds=at_most(0.2),
            tolerance="Share of sets of restarts that hold it, the larger of both",
            kind="ours",
            fails=0.5,
        ),
        Claim(
            id="X3",
            statement="From a random start the same branches find it less often, by 20 points or more.",
            published="none",
            value=lambda m: m["cells"]["search"]["half"]["mean"] - m["cells"]["random-start"]["half"]["mean"],
            holds=at_least(0.2),
            tolerance="Difference of the shares",
            kind="control",
            fails=0.0,
        ),
        Claim(
            id="X6",
            statement="Along random directions the same search finds it less often, by 20 points or more.",
            published="none",
            value=lambda m: m["cells"]["search"]["half"]["mean"] - m["cells"]["random-directions"]["half"]["mean"],
            holds=at_least(0.2),
            tolerance="Difference of the shares; as many branches, of the same length",
            kind="control",
            fails=0.0,
        ),
        Claim(
            id="X4",
            statement="Restarts from wider initial points find it, too: the advantage is one of the initialization.",
            published="none",
            value=at("cells", "wide-restarts", "half", "mean"),
            holds=above(0.5),
            tolerance="Share of sets of short restarts from logits of standard deviation 1 that hold it",
            kind="control",
            fails=0.1,
        ),
        Claim(
            id="X5",
            statement="Neither finds full cooperation.",
            published="none",
            value=lambda m: max(m["cells"][n]["cooperate"]["mean"] for n in ("search", "short-restarts")),
            holds=below(0.2),
            tolerance="Share that holds a solution with both losses within 0.1 of 1",
            kind="ours",
            fails=0.9,
        ),
    ),
)
