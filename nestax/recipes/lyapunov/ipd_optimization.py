"""Figures 5.5 and C.11 to C.13: ascent of objectives of the exponents in the iterated prisoner's dilemma."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ... import dynamics, optimizers, problems
from ..._problem import Players
from ..._solve import solve
from ..._step import OptimizerStep
from .. import Claim, Recipe, Trial, above, at, at_least, below, lines
from . import PAPER


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Adam on the exponents of one step of gradient descent with a step of 1."""

    num_steps: int = 2_000
    ascent_rate: float = 0.02
    num_starts: int = 10
    objectives: tuple[str, ...] = ("max-1", "min-5", "min-10", "sum-10")


OBJECTIVES = {
    "max-1": (dynamics.LargestExponent, 1),
    "min-5": (dynamics.SmallestExponent, 5),
    "min-10": (dynamics.SmallestExponent, 10),
    "sum-10": (dynamics.ExponentSum, 10),
}


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    return {name: {"objective": name} for name in protocol.objectives}


def measure(trial: Trial, objective: str) -> dict[str, Any]:
    p = trial.protocol
    make, num = OBJECTIVES[objective]
    game, player = problems.iterated_prisoners_dilemma(), optimizers.sgd(1.0)
    search = dynamics.ExponentProblem(game, player, num=num, objective=make())
    keys = jax.random.split(trial.key, p.num_starts)
    starts, ends, history = _climb(search, optimizers.adam(p.ascent_rate), keys, p.num_steps)
    before, after = (
        np.array([_moduli(game, player, jax.tree.map(lambda x, i=i: x[i], w)) for i in range(len(keys))])
        for w in (starts, ends)
    )
    return {
        "history": history.mean(axis=0)[:: max(p.num_steps // 60, 1)],
        "risen": float(np.mean(history[:, -1] > history[:, 0])),
        "objective": [float(history[:, 0].mean()), float(history[:, -1].mean())],
        "largest": [float(x.max(axis=1).mean()) for x in (before, after)],
        "grown": float(np.mean(after.max(axis=1) > before.max(axis=1))),
        "outside": [float(np.mean(x > 1)) for x in (before, after)],
        "all_outside": float(np.mean(np.all(after > 1, axis=1))),
        "logits": float(np.mean([np.abs(np.concatenate([np.ravel(x) for x in ends])).mean()])),
    }


@eqx.filter_jit
def _climb(search, optimizer, keys, num_steps):
    def one(key):
        start = search.init(key)
        out = solve(search, optimizer, num_steps=num_steps, key=key, players=start, throw=False)
        return start[0], out.players[0], -out.losses[:, 0]

    return jax.vmap(one)(keys)


def _moduli(game: Any, player: Any, players: Players) -> np.ndarray:
    carry = (players, player.init(game, players, jax.random.key(0)))
    return np.abs(np.linalg.eigvals(np.asarray(dynamics.step_jacobian(OptimizerStep(game, player), carry).dense())))


def summarize(results: Any) -> dict[str, Any]:
    return {"objectives": {name: trials[0] for name, trials in results.items()}}


def tables(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = {
        name: {
            "objective": " → ".join(f"{x:.3f}" for x in m["objective"]),
            "largest modulus": " → ".join(f"{x:.3f}" for x in m["largest"]),
            "share of eigenvalues outside the unit circle": " → ".join(f"{x:.2f}" for x in m["outside"]),
            "starts that end with all outside": m["all_outside"],
        }
        for name, m in metrics["objectives"].items()
    }
    return {"Ascent of the exponents of one step": rows}


def pictures(results: Any, metrics: dict[str, Any]) -> dict[str, Any]:
    every = max(results.protocol.num_steps // 60, 1)
    curves = {
        name: {"mean over starts": ([i * every for i in range(len(m["history"]))], m["history"])}
        for name, m in metrics["objectives"].items()
    }
    return {"ascent": lines(curves, ("steps of ascent", "objective"))}


RECIPE = Recipe(
    name="lyapunov/ipd-optimization",
    title="Ascent of Lyapunov exponents in the iterated prisoner's dilemma",
    source=f"{PAPER}, figures 5 and C.11 to C.13",
    scales={
        "smoke": Protocol(2, num_starts=2, objectives=("max-1",)),
        "laptop": Protocol(),
        "paper": Protocol(num_starts=100),
    },
    axes=("objectives",),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    pictures=pictures,
    x64=True,
    claims=(
        Claim(
            id="O1",
            statement="Every objective rises from every start.",
            published="the objective falls (figure 5, as a loss)",
            value=at("objectives", ..., "risen"),
            holds=at_least(1.0),
            tolerance="Share of starts",
            fails={"a": 0.5},
        ),
        Claim(
            id="O2",
            statement="With the largest exponent the largest modulus of the eigenvalues of the step grows, too.",
            published="the final spectrum is further out (figure 5)",
            value=at("objectives", "max-1", "grown"),
            holds=at_least(0.9),
            tolerance="Share of starts; the objective is a singular value, not an eigenvalue",
            fails=0.5,
        ),
        Claim(
            id="O3",
            statement="Ascent of the smallest of all ten exponents puts all eigenvalues outside the unit circle.",
            published="all outside (figure C.13)",
            value=at("objectives", "min-10", "all_outside"),
            holds=at_least(0.9),
            tolerance="Share of starts; the smallest exponent tends to 0 from below, where logits saturate",
            fails=0.1,
        ),
        Claim(
            id="O4",
            statement="Ascent of the sum of all ten leaves some inside.",
            published="some inside (figure C.12)",
            value=at("objectives", "sum-10", "all_outside"),
            holds=below(0.5),
            tolerance="Share of starts that end with all outside",
            fails=0.9,
        ),
        Claim(
            id="O5",
            statement="The ascent drives logits outwards: it needs a limit.",
            published="none",
            value=at("objectives", "max-1", "logits"),
            holds=above(1.2),
            tolerance="Mean modulus of the logits at the end; 0.8 at the start",
            kind="ours",
            fails=0.8,
        ),
    ),
)
