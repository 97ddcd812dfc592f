"""The shared parts of these recipes: momentum coefficients, and trainings of GANs that are scored along the way."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ... import optimizers
from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ..._rollout import RESULTS
from .._recipe import Trial
from .._training import in_parts

CERTAIN = 1e-9
"""A rate this close to 1 is 1: it converges in the limit of a vanishing step size only."""


def polar(modulus: Float[Array, "*batch"], phase: Float[Array, "*#batch"]) -> Complex[Array, "*batch"]:
    """The complex number of this modulus and phase (radians)."""
    return jax.lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))


def momentum_name(modulus: float, phase_over_pi: float) -> str:
    """A momentum coefficient as it stands in tables: `0`, `0.7`, `-0.7`, `0.7 exp(0.125πi)`."""
    if modulus == 0 or phase_over_pi == 0:
        return f"{modulus:g}"
    return f"-{modulus:g}" if phase_over_pi == 1 else f"{modulus:g} exp({phase_over_pi:g}πi)"


def momentum_grid(moduli: Sequence[float], phases_over_pi: Sequence[float]) -> dict[str, dict[str, float]]:
    """All pairs of a modulus and a phase (over π), by name; zero has no phase and comes once."""
    pairs = [(m, p) for m in moduli for p in (phases_over_pi if m else (0.0,))]
    return {momentum_name(*pair): {"modulus": pair[0], "phase_over_pi": pair[1]} for pair in pairs}


def is_real(row: dict[str, Any]) -> bool:
    """Whether the coefficient is real: zero, positive or negative momentum."""
    return row["modulus"] == 0 or row["phase_over_pi"] in (0, 1)


def alternating(learning_rate: float, modulus: float, phase_over_pi: float) -> optimizers.Alternating:
    """Gradient descent with complex momentum for both players, in turns; the generator moves first."""
    phase = math.pi * phase_over_pi
    return optimizers.Alternating(optimizers.complex_momentum(learning_rate, modulus, phase=phase))


def scored(
    trial: Trial,
    problem: AbstractProblem,
    optimizer: AbstractOptimizer,
    score: Callable[[Any, Any], dict[str, Any]],
    worst: dict[str, Any],
    cap: float = math.inf,
) -> tuple[dict[str, list[Any]], Any]:
    """A training of `num_steps` with `score(players, key)` at its checkpoints, and the players at the end.

    From a failure on (not finite, or the first score not below `cap`), scores are the worst.
    """
    protocol, rows, players = trial.protocol, [], None
    key, score_key = trial.keys(2)
    for solution in in_parts(problem, optimizer, protocol.num_steps, protocol.checkpoints, key):
        players = solution.players
        row = {name: float(value) for name, value in score(players, score_key).items()}
        if solution.result != RESULTS.successful or not next(iter(row.values())) < cap:
            break
        rows.append(row)
    rows += [worst] * (protocol.checkpoints - len(rows))
    return {name: [row[name] for row in rows] for name in worst}, players
