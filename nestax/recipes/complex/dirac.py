"""Complex momentum on the smallest GAN: which momentum converges, how fast, and whether the prediction is right."""

import cmath
import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ... import dynamics, optimizers, problems
from ..._rollout import Record, rollout
from ..._step import OptimizerStep
from ...measures import convergence_rate
from .. import Recipe, Results, Trial, first, heat_maps, lines
from .._claims import Metrics, above, at, below, between, claims, each, increasing, values
from ._common import CERTAIN, polar

PLAYS = {"simultaneous": 1, "alternating": 2}
"""How the players move, and how many gradients a step takes."""

ALMOST_POSITIVE = "0.9 exp(πi/8)"
DIVERGING = {"0": 0j, "0.9": 0.9 + 0j, "-0.5": -0.5 + 0j, "-0.9": -0.9 + 0j}
PUBLISHED = {**DIVERGING, ALMOST_POSITIVE: cmath.rect(0.9, math.pi / 8)}
"""The momenta of the published trajectories."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of the figures. All is deterministic."""

    num_moduli: int  # grid of |β|, from 0 to below 1
    num_phases: int  # grid of arg β, from 0 to π
    num_real: int = 2_000  # real β between -1 and 1
    learning_rate: float = 0.1  # as published
    num_steps: int = 1_000  # at which the trajectories are judged
    rate_steps: int = 2_000  # the empirical rate is a line through log distance over the second half of them
    start: float = 1.0  # both players; not given
    near_start: float = 1e-120  # where the game is linear, and stays so in runs that diverge
    frequencies: tuple[float, ...] = (0.5, 1.0)  # |λ| of this game; and, to see what else might be meant, twice that


@eqx.filter_jit
def distances(play: str, rate: float, momenta: Array, start: Array, num_steps: int) -> Float[Array, "runs steps"]:
    """Distances from the solution after every step, for each momentum."""
    problem = problems.DiracGAN()

    def run(modulus, phase):
        optimizer = optimizers.complex_momentum(rate, modulus, phase=phase)
        optimizer = optimizers.Alternating(optimizer) if play == "alternating" else optimizer
        step = Record(OptimizerStep(problem, optimizer))
        carry = ((start, start), optimizer.init(problem, (start, start), jax.random.key(0)))
        return jnp.hypot(*rollout(step, carry, None, num_steps=num_steps, throw=False).info[1])

    return jax.vmap(run)(jnp.abs(momenta), jnp.angle(momenta))


RATES = {  # of (modulus, phase), frequency and learning rate
    "simultaneous": jax.jit(lambda p, f, rate: dynamics.momentum_rate(jax.lax.complex(0 * f, f), rate, polar(*p))),
    "alternating": jax.jit(lambda p, f, rate: dynamics.alternating_momentum_rate(f, rate, polar(*p))),
}


def optimum(play: str, frequency: float, learning_rate: float) -> dict[str, float]:
    """The best momentum of all, and its rate: a grid of a few thousand points, refined."""
    axes = (np.linspace(0, 0.999, 60), np.linspace(0, math.pi, 60))
    bounds = ((0.0, 0.9999), (0.0, math.pi))
    settings = (np.array([frequency]), axes, bounds, np.array(learning_rate))
    rate, (modulus, phase) = dynamics.minimize_rate(RATES[play], *settings)
    per_gradient = rate ** (1 / PLAYS[play])
    return {"rate": rate, "rate_per_gradient": per_gradient, "modulus": modulus, "phase_over_pi": phase / math.pi}


def measure(trial: Trial, play: str, frequency: float | None = None) -> dict[str, Any]:
    """The best momentum for eigenvalues ±i `frequency`; without, everything else on one kind of play."""
    p: Protocol = trial.protocol
    if frequency is not None:
        return optimum(play, frequency, p.learning_rate)
    momenta = dict(PUBLISHED)
    for kind in PLAYS:
        (best,) = trial.results[f"optima/{p.frequencies[0]:g}/{kind}"]
        momenta[f"best {kind}"] = cmath.rect(best["modulus"], math.pi * best["phase_over_pi"])
    beta, real = np.array(list(momenta.values())), np.linspace(-1, 1, p.num_real + 1)[1:-1]
    moduli, phases = np.linspace(0, 1, p.num_moduli, endpoint=False), np.linspace(0, math.pi, p.num_phases)
    wanted = np.concatenate([beta, real, (moduli[:, None] * np.exp(1j * phases)).reshape(-1)])  # one compilation
    at_them = jnp.stack([jnp.abs(wanted), jnp.angle(wanted)])
    rates = np.asarray(RATES[play](at_them, jnp.asarray(p.frequencies[0]), jnp.asarray(p.learning_rate)))
    predicted, line, grid = np.split(rates, [len(beta), len(beta) + len(real)])
    grid = grid.reshape(len(moduli), len(phases))
    far, near = (
        np.asarray(distances(play, p.learning_rate, jnp.asarray(beta), jnp.asarray(start), p.rate_steps))
        for start in (p.start, p.near_start)
    )
    rows, columns = (range(0, n, max(1, n // 10)) for n in grid.shape)
    return {
        "runs": {
            name: {
                "predicted": predicted[i],
                "empirical": convergence_rate(near[i]),
                "empirical_from_afar": convergence_rate(far[i]) if far[i, -1] < 1e-3 * far[i, 0] else None,
                "growth": far[i, p.num_steps - 1] / (math.sqrt(2) * p.start),
            }
            for i, name in enumerate(momenta)
        },
        "converging_share": np.mean(grid < 1 - CERTAIN),
        "grid_minimum": grid.min(),
        "real": {"negative": line[real < -1e-12].min() - 1, "other": line[real > -1e-12].min() - 1},
        "curves": {name: far[i, : p.num_steps : p.num_steps // 50] for i, name in enumerate(PUBLISHED)},
        "grid": {f"{moduli[i]:.2f}": {f"{phases[j] / math.pi:.2f}": grid[i, j] for j in columns} for i in rows},
    }


def summarize(results: Results) -> Metrics:
    found = results.nested(first)
    kept = {key: at("plays", ..., key)(found) for key in ("runs", "converging_share", "grid_minimum", "real")}
    rows = [rows[name] for rows in kept["runs"].values() for name in PUBLISHED]  # at the best momenta roots meet
    pairs = [(row["predicted"], row[key]) for row in rows for key in ("empirical", "empirical_from_afar")]
    error = max(round(abs(a - b), 8) for a, b in pairs if b is not None)
    return {"optima": found["optima"], **kept, "largest_error": error}


def tables(metrics: Metrics) -> dict[str, Any]:
    return {
        "Rates per step, predicted and from runs; distance after the run over that at the start": [
            {"play": play, "momentum": name, **{k: row[k] for k in ("predicted", "empirical", "growth")}}
            for play, rows in metrics["runs"].items()
            for name, row in rows.items()
        ],
        "The best momentum at this learning rate": [
            {"eigenvalues": f"±{frequency}i", "play": play, **found}
            for frequency, plays in metrics["optima"].items()
            for play, found in plays.items()
        ],
    }


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    steps = range(0, results.protocol.num_steps, results.protocol.num_steps // 50)
    panels: dict[str, Any] = {play: {} for play in PLAYS}
    rates: dict[str, Any] = {play: {} for play in PLAYS}
    for play in PLAYS:
        (found,) = results[f"plays/{play}"]
        panels[play] = {name: (steps, curve) for name, curve in found["curves"].items()}
        for modulus, row in found["grid"].items():
            rates[play][modulus] = {phase: rate if rate < 1 - CERTAIN else None for phase, rate in row.items()}
    return {
        "distances": lines(panels, ("steps", "distance from the solution"), log="y"),
        "rates": heat_maps(rates, ("arg β / π (blank: does not converge)", "|β|"), ".2f"),
    }


SIMULTANEOUS, ALTERNATING = (at("optima", "0.5", play, "rate") for play in PLAYS)
PER_GRADIENT = at("optima", "0.5", "alternating", "rate_per_gradient")
GROWTH = {name: at("runs", "simultaneous", name, "growth") for name in PUBLISHED}
PHASES = [at("optima", "0.5", play, "phase_over_pi") for play in PLAYS]
REAL = [at("real", "alternating", sign) for sign in ("negative", "other")]
SHARES = [at("converging_share", play) for play in PLAYS]

CLAIMS = claims(
    """
    D1 | published | With the best momentum, simultaneous play shrinks the distance by 0.955 per step.
        | 0.955 (figure 4.3) | A published minimum over a grid cannot be below the true one and lies a little above it,
        since the optimum is the bottom of a notch where three roots nearly meet; so our refined optimum must be at most
        the published number (plus half its last digit) and at most 0.005 below
    D2 | published | With the best momentum, alternating play shrinks it by 0.931 per step, 0.965 per gradient.
        | 0.931 per step, 0.965 per gradient (figures 4.3 and B.3) | Per step, per gradient, as D1
    D3 | published | At best, alternating play is faster than simultaneous play per step, and slower per gradient.
        | 0.931 < 0.955 < 0.965 | Alternating per step, simultaneous, alternating per gradient
    D4 | published | The best momentum is almost positive: complex, with a small phase. | qualitative (figure 4.3)
        | Phase over π, simultaneous and alternating; the upper end is what the source recommends
    D5 | published | No real momentum converges in simultaneous play. | proved; visible in figure 4.3
        | The lowest rate over real momenta between -1 and 1, minus 1
    D6 | published | In alternating play negative momentum converges, zero and positive momentum do not.
        | qualitative (figure 4.3) | The lowest rate over negative and over other real momenta, minus 1; only the first
        is below 0
    D7 | published | More momenta converge in alternating than in simultaneous play. | qualitative (figure 4.3)
        | Shares of the grid of modulus and phase: simultaneous, alternating
    D8 | published | From afar, β = 0.9 exp(πi/8) converges in simultaneous play. | qualitative (figure 4.4)
        | Distance after 1,000 steps over that at the start
    D9 | published | From afar, β = 0, 0.9, -0.5 and -0.9 diverge in simultaneous play. | qualitative (figure 4.4)
        | As D8, for each
    D10 | control | The rate predicted from the Jacobian is the rate of the run. | figure 4.4, no number
        | The largest difference over the published momenta in both plays, for runs from near the solution and, where
        they converge, from afar
    """,
    {
        "D1": (SIMULTANEOUS, between(0.950, 0.9555), 0.94, True),
        "D2": (
            values(ALTERNATING, PER_GRADIENT),
            each(between(0.926, 0.9315), between(0.9625, 0.9655)),
            [0.946, 0.973],
            False,
        ),
        "D3": (values(ALTERNATING, SIMULTANEOUS, PER_GRADIENT), increasing(), [0.97, 0.94, 0.98], True),
        "D4": (values(*PHASES), between(0.01, 0.125), [0.08, 0.3], True),
        "D5": (at("real", "simultaneous", by=min), above(0), -1e-3, True),
        "D6": (values(*REAL), each(below(-1e-6), above(-CERTAIN)), [-1e-3, -1e-3], True),
        "D7": (values(*SHARES), increasing(), [0.7, 0.3], True),
        "D8": (GROWTH[ALMOST_POSITIVE], below(1e-3), 2.0, True),
        "D9": (values(*(GROWTH[name] for name in DIVERGING)), above(1), [1.9, 0.5, 1.2, 1.0], True),
        "D10": (at("largest_error"), below(1e-4), 1e-2, True),
    },
)

RECIPE = Recipe(
    name="complex/dirac",
    title="Complex momentum on the Dirac-GAN: trajectories, predicted rates, and the best momentum",
    source="Lorraine, Acuna, Vicol, Duvenaud 2022 (AISTATS), on the Dirac-GAN; figures 4.3, 4.4 and B.3 of the thesis "
    "of Lorraine",
    scales={
        "smoke": Protocol(num_moduli=12, num_phases=9, num_real=40, frequencies=(0.5,)),
        "laptop": Protocol(num_moduli=200, num_phases=129),
        "paper": Protocol(num_moduli=400, num_phases=513, num_real=20_000),
    },
    cells=lambda protocol: {
        **{f"optima/{f:g}/{play}": {"play": play, "frequency": f} for f in protocol.frequencies for play in PLAYS},
        **{f"plays/{play}": {"play": play} for play in PLAYS},
    },
    measure=measure,
    summarize=summarize,
    tables=tables,
    pictures=pictures,
    x64=True,  # the best rates are where roots meet
    digits=10,
    claims=CLAIMS,
)
