"""What the recipe `lyapunov/heatmaps` measures: maps of exponents over planes, and where runs from there end."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import dynamics, networks, optimizers, problems
from ..._solve import solve
from .. import Trial
from ._planes import boundary, ends, modes, ranked_above

VARIANTS = {  # of the map: definition, steps (None: the horizon), player
    "exact": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), None, "lola"),
    "one-step": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), 1, "lola"),
    "descent": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), None, "descent"),
    "per-step": (lambda: dynamics.PerStepGrowth(dynamics.DenseSVD()), None, "lola"),
    "per-step-power": (lambda: dynamics.PerStepGrowth(dynamics.PowerIteration(10)), None, "lola"),
    "random-direction": (lambda: dynamics.AverageGrowth(directions=_fixed_direction()), None, "lola"),
    "both-sum": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), None, "lola"),
}
PARTS = ("ends", "map", "ascent", "steps", "subspaces", "scalar", "gan")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The mixture of the small dilemma and matching pennies in the plane of both logits, played by LOLA."""

    resolution: int = 25
    bound: float = 4.0
    horizon: int = 100  # steps of the exponents; published: 10, of losses without the factor 1 - discount, 1 / 25
    subspace_steps: int = 10  # of those in random planes of larger games
    num_steps: int = 5_000  # until ends are compared
    ascent_steps: int = 20  # of Adam with a step of 0.1
    cycle_weight: float = 0.1  # of the dilemma where cycles are looked for; at 0.25 all runs escape to cooperation
    num_ascents: int = 5  # per axis
    num_subspaces: int = 5
    parts: tuple[str, ...] = PARTS  # what is measured
    variants: tuple[str, ...] = tuple(VARIANTS)  # which maps


def _fixed_direction() -> jax.Array:
    return jnp.array([[jnp.cos(0.4)], [jnp.sin(0.4)]])


def _player(name: str, rate: float = 1.0, opponent_rate: float = 5.0) -> Any:
    return optimizers.sgd(rate) if name == "descent" else optimizers.LOLA(rate, opponent_rate=opponent_rate)


def measure(trial: Trial, part: str, variant: str = "") -> dict[str, Any]:
    p = trial.protocol
    return {
        "ends": lambda: _measure_ends(p),
        "map": lambda: {"values": _map(p, variant)},
        "ascent": lambda: _measure_ascent(p),
        "steps": lambda: _measure_steps(p),
        "subspaces": lambda: _measure_subspaces(p, trial.key),
        "scalar": _measure_scalar_maps,
        "gan": lambda: _measure_gan(p, trial.key),
    }[part]()


def _plane(p: Protocol, resolution: int | None = None) -> dynamics.Plane:
    return dynamics.Plane.of_scalars(-p.bound, p.bound, p.resolution if resolution is None else resolution)


def _measure_ends(p: Protocol) -> dict[str, Any]:
    labels = {
        name: modes(ends(problems.mixed_dilemma(), _player(name), _plane(p).points(), p.num_steps))
        for name in ("lola", "descent")
    }
    return {name: x.reshape(p.resolution, -1) for name, x in labels.items()}


def _map(p: Protocol, variant: str) -> np.ndarray:
    make, steps, player = VARIANTS[variant]
    game, method, definition = problems.mixed_dilemma(), _player(player), make()
    num = 2 if variant == "both-sum" else 1

    def exponent(players):
        out = dynamics.lyapunov_exponents(
            game, method, players, num_steps=steps or p.horizon, num=num, definition=definition
        )
        return jnp.sum(out.exponents)

    return dynamics.heat_map(exponent, _plane(p)).values


def _measure_ascent(p: Protocol) -> dict[str, Any]:
    """Shares of points within 0.15 of another basin, before and after ascent of the exponent."""
    game, player = problems.mixed_dilemma(), _player("lola")
    search = dynamics.ExponentProblem(game, player, num_steps=p.horizon)
    starts = _plane(p, p.num_ascents).points()

    def climb(players):
        out = solve(
            search,
            optimizers.adam(0.1),
            num_steps=p.ascent_steps,
            key=jax.random.key(0),
            players=(players,),
            throw=False,
        )
        return out.players[0], -out.losses[0, 0], -out.losses[-1, 0]

    found, before, after = jax.vmap(climb)(starts)
    shares = []
    for points in (starts, found):
        flat = np.stack([np.asarray(x) for x in points], axis=1)
        around = np.concatenate([flat + np.array(d) for d in ((0, 0), (0.15, 0), (-0.15, 0), (0, 0.15), (0, -0.15))])
        labels = modes(ends(game, player, tuple(jnp.asarray(x) for x in around.T), p.num_steps)).reshape(5, -1)
        shares.append(float(np.mean(np.any(labels != labels[0], axis=0))))
    return {
        "before": shares[0],
        "after": shares[1],
        "exponent_before": float(jnp.mean(before)),
        "exponent_after": float(jnp.mean(after)),
        "points": np.stack([np.asarray(x) for x in found], axis=1),
    }


def _measure_steps(p: Protocol) -> dict[str, Any]:
    """Whether LOLA still moves after many steps, from everywhere: steps that are too large end in cycles."""
    out = {}
    game = problems.mixed_dilemma(p.cycle_weight)
    for name, (rate, opponent_rate) in {"small": (1.0, 5.0), "large": (10.0, 10.0)}.items():
        player = _player("lola", rate, opponent_rate)
        points = [ends(game, player, _plane(p, 9).points(), 1_000)]
        for _ in range(30):
            points.append(ends(game, player, tuple(jnp.asarray(x) for x in points[-1].T), 1))
        moved = np.ptp(np.stack(points), axis=0).max(axis=1)
        out[name] = float(np.mean(moved > 0.3))
    return out


def _measure_subspaces(p: Protocol, key: jax.Array) -> dict[str, Any]:
    """Random planes of the whole dilemma under LOLA: whether exponents are larger where ends differ."""
    found = []
    for one in jax.random.split(key, p.num_subspaces):
        plane_game = problems.random_subspace(problems.iterated_prisoners_dilemma(), one)
        zero, unit = jnp.zeros(1), jnp.ones(1)
        plane = dynamics.Plane((zero, zero), (unit, zero), (zero, unit), -6.0, 6.0, max(p.resolution // 2, 3))
        player = _player("lola", 1.0, 10.0)

        def exponent(players, plane_game=plane_game, player=player):
            return dynamics.lyapunov_exponents(plane_game, player, players, num_steps=p.subspace_steps).exponents[0]

        values = dynamics.heat_map(exponent, plane).values
        last = ends(plane_game, player, plane.points(), max(p.num_steps // 5, 2))
        labels = np.asarray(
            jax.vmap(lambda x, g=plane_game: jnp.stack(g.losses((x[:1], x[1:]), None)))(jnp.asarray(last))
        )
        labels = np.round(labels.sum(axis=1) * 4).reshape(plane.resolution, -1)
        found.append(ranked_above(values, boundary(labels)))
    known = [x for x in found if np.isfinite(x)]
    return {"area": found, "mean": float(np.mean(known)) if known else None, "planes": len(known)}


def _measure_gan(p: Protocol, key: jax.Array) -> dict[str, Any]:
    """Random planes of a small GAN on sixteen Gaussians, under descent with a step of 1."""
    network = networks.MLP((16, 16), "relu", init_scale=None)
    gan = problems.MixtureGAN(generator=network, discriminator=network, layout="grid", num_modes=16, batch_size=64)
    zero, unit = jnp.zeros(1), jnp.ones(1)
    plane = dynamics.Plane((zero, zero), (unit, zero), (zero, unit), -20.0, 20.0, max(p.resolution // 2, 3))
    maps = []
    for one in jax.random.split(key):
        game, player = problems.random_subspace(gan, one), optimizers.sgd(1.0)

        def exponent(players, game=game, player=player):
            out = dynamics.lyapunov_exponents(game, player, players, num_steps=p.subspace_steps, key=jax.random.key(0))
            return out.exponents[0]

        maps.append(dynamics.heat_map(exponent, plane).values)
    return {"range": [float(np.min(maps)), float(np.max(maps))], "positive": float(np.mean(np.array(maps) > 0))}


def _measure_scalar_maps() -> dict[str, Any]:
    benettin = dynamics.Benettin(transient=1_000)

    def exponent(step):
        out = dynamics.step_exponents(
            step, jnp.array(-0.3 if "Saddle" in type(step).__name__ else 0.3), num_steps=6_000, definition=benettin
        )
        return float(out.exponents[0])

    logistic = {f"{r:g}": exponent(dynamics.LogisticMap(r)) for r in (2.5, 3.2, 3.5, 3.6, 3.83, 4.0)}
    saddle = {f"{r:g}": exponent(dynamics.SaddleNodeMap(r)) for r in (-0.9, -0.5, -0.2)}
    return {"logistic": logistic, "saddle-node": saddle}
