"""Figures 5.6, 5.7 and C.2 to C.8: maps of Lyapunov exponents, and what their ridges are."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import dynamics, optimizers, problems
from ..._solve import solve
from .. import Claim, Recipe, Trial, above, at, at_least, at_most, below, difference, increasing, values
from . import PAPER
from ._planes import boundary, ends, modes, ranked_above

VARIANTS = {  # of the map: definition, steps (None: the horizon), player
    "exact": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), None, "lola"),
    "one-step": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), 1, "lola"),
    "descent": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), None, "descent"),
    "per-step": (lambda: dynamics.PerStepGrowth(dynamics.DenseSVD()), None, "lola"),
    "per-step-power": (lambda: dynamics.PerStepGrowth(dynamics.PowerIteration(10)), None, "lola"),
    "average": (lambda: dynamics.AverageGrowth(dynamics.DenseSVD()), None, "lola"),
    "random-direction": (lambda: dynamics.AverageGrowth(directions=_fixed_direction()), None, "lola"),
    "both-sum": (lambda: dynamics.FiniteTime(dynamics.DenseSVD()), None, "lola"),
}
PARTS = ("ends", "map", "ascent", "steps", "subspaces", "scalar")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The mixture of the small dilemma and matching pennies in the plane of both logits, played by LOLA."""

    resolution: int = 25
    bound: float = 4.0
    horizon: int = 10  # steps of the exponents
    num_steps: int = 5_000  # until ends are compared
    ascent_steps: int = 60  # of Adam with a step of 0.05
    num_ascents: int = 7  # per axis
    num_subspaces: int = 5
    parts: tuple[str, ...] = PARTS  # what is measured
    variants: tuple[str, ...] = tuple(VARIANTS)  # which maps


def _fixed_direction() -> jax.Array:
    return jnp.array([[jnp.cos(0.4)], [jnp.sin(0.4)]])


def _player(name: str, rate: float = 1.0, opponent_rate: float = 5.0) -> Any:
    return optimizers.sgd(rate) if name == "descent" else optimizers.LOLA(rate, opponent_rate=opponent_rate)


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    maps = {f"map/{name}": {"part": "map", "variant": name} for name in protocol.variants}
    return {
        name: settings
        for part in protocol.parts
        for name, settings in (maps.items() if part == "map" else [(part, {"part": part})])
    }


def measure(trial: Trial, part: str, variant: str = "") -> dict[str, Any]:
    p = trial.protocol
    return {
        "ends": lambda: _measure_ends(p),
        "map": lambda: {"values": _map(p, variant)},
        "ascent": lambda: _measure_ascent(p),
        "steps": lambda: _measure_steps(p),
        "subspaces": lambda: _measure_subspaces(p, trial.key),
        "scalar": _measure_scalar_maps,
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
            optimizers.adam(0.05),
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
    """How far LOLA still moves after many steps, from everywhere: steps that are too large end in cycles."""
    out = {}
    for name, (rate, opponent_rate) in {"small": (1.0, 5.0), "large": (10.0, 10.0)}.items():
        player, game = _player("lola", rate, opponent_rate), problems.mixed_dilemma()
        first = ends(game, player, _plane(p, 9).points(), p.num_steps)
        second = ends(game, player, tuple(jnp.asarray(x) for x in first.T), 1)
        inside = np.abs(first).max(axis=1) < 2
        moved = np.linalg.norm(second - first, axis=1)
        out[name] = float(np.mean(inside & (moved > 0.05)))
        out[f"{name}-settled"] = float(np.mean(inside & (moved < 1e-3)))
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
            return dynamics.lyapunov_exponents(plane_game, player, players, num_steps=p.horizon).exponents[0]

        values = dynamics.heat_map(exponent, plane).values
        last = ends(plane_game, player, plane.points(), max(p.num_steps // 5, 2))
        labels = np.asarray(
            jax.vmap(lambda x, g=plane_game: jnp.stack(g.losses((x[:1], x[1:]), None)))(jnp.asarray(last))
        )
        labels = np.round(labels.sum(axis=1) * 4).reshape(plane.resolution, -1)
        found.append(ranked_above(values, boundary(labels)))
    known = [x for x in found if np.isfinite(x)]
    return {"area": found, "mean": float(np.mean(known)) if known else None, "planes": len(known)}


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


def summarize(results: Any) -> dict[str, Any]:
    first = {name: trials[0] for name, trials in results.items()}
    edges = {name: boundary(np.array(first["ends"][name])) for name in ("lola", "descent")}
    maps = {name: np.array(first[f"map/{name}"]["values"], float) for name in results.protocol.variants}
    edge, reference = edges["lola"], maps["per-step"].reshape(-1)
    best = {name: np.unravel_index(np.argmax(shown), shown.shape) for name, shown in maps.items()}
    others = {
        name: {k: v for k, v in first[name].items() if k != "points"}
        for name in ("ascent", "steps", "subspaces", "scalar")
        if name in first
    }
    return {
        **others,
        "boundary": {name: float(e.mean()) for name, e in edges.items()},
        "on_boundary": float(maps["exact"][edge].mean()) if edge.any() else None,
        "elsewhere": float(maps["exact"][~edge].mean()) if not edge.all() else None,
        "area": {name: ranked_above(shown.reshape(-1), edge.reshape(-1)) for name, shown in maps.items()},
        "correlation": {name: _correlation(shown, reference) for name, shown in maps.items()},
        "players": _correlation(maps["descent"], maps["exact"].reshape(-1)) if "descent" in maps else None,
        "largest_at": {name: [int(i) for i in at] for name, at in best.items()},
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.reshape(-1), second)[0, 1])


def tables(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = {
        name: {
            "chance that a cell on the boundary has the larger value": metrics["area"][name],
            "correlation with singular values of every step": metrics["correlation"][name],
        }
        for name in metrics["area"]
    }
    scalars = {
        f"{kind}, r = {r}": {"exponent": v} for kind, x in metrics.get("scalar", {}).items() for r, v in x.items()
    }
    return {"Maps of exponents on the mixture": rows, "Maps of one number (figure C.7)": scalars}


def pictures(results: Any, metrics: dict[str, Any]) -> dict[str, Any]:
    import matplotlib.figure

    p = results.protocol
    ticks = np.linspace(-p.bound, p.bound, p.resolution)
    figure = matplotlib.figure.Figure(figsize=(15, 6.8), layout="constrained")
    panels = [("ends under LOLA", np.array(results["ends"][0]["lola"]))]
    panels += [(name, np.array(results[f"map/{name}"][0]["values"], float)) for name in p.variants[:7]]
    for axes, (name, shown) in zip(figure.subplots(2, 4).flat, panels):
        image = axes.pcolormesh(ticks, ticks, shown.T, shading="nearest", cmap="viridis")
        axes.set_title(name, fontsize=9)
        figure.colorbar(image, ax=axes)
        if name == "exact" and "ascent" in results:
            axes.plot(*np.array(results["ascent"][0]["points"]).T, ".", color="red", markersize=4)
    del metrics
    return {"maps": figure}


RECIPE = Recipe(
    name="lyapunov/heatmaps",
    title="Where runs separate: maps of Lyapunov exponents",
    source=f"{PAPER}, figures 6, 7, C.2 to C.8",
    scales={
        "smoke": Protocol(5, horizon=2, num_steps=10, parts=("ends", "map"), variants=("exact", "per-step")),
        "laptop": Protocol(),
        "paper": Protocol(101, num_steps=20_000, num_ascents=15, num_subspaces=20),
    },
    axes=("parts", "variants"),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    pictures=pictures,
    x64=True,
    claims=(
        Claim(
            id="H1",
            statement="The exponent of ten steps is larger on the boundary between basins than elsewhere.",
            published="a ridge separates the basins (figure 6)",
            value=difference(at("on_boundary"), at("elsewhere")),
            holds=above(0.0),
            tolerance="Mean over cells with a neighbour that ends elsewhere, minus the mean over all others",
            fails=-0.1,
        ),
        Claim(
            id="H2",
            statement="Ascent of the exponent ends near a boundary more often than it starts there.",
            published="ascent ends on the ridge (figure 6)",
            value=values(at("ascent", "before"), at("ascent", "after")),
            holds=increasing(),
            tolerance="Shares of points within 0.15 of one that ends elsewhere",
            fails=[0.5, 0.5],
        ),
        Claim(
            id="H3",
            statement="One step does not show the boundary, ten do.",
            published="not visible for one step (figure C.3)",
            value=values(at("area", "one-step"), at("area", "exact")),
            holds=increasing(),
            tolerance="Chance that a cell on the boundary has the larger value than another, for one step and for ten",
            fails=[0.8, 0.7],
        ),
        Claim(
            id="H4",
            statement="A random direction does not show what singular vectors show; ten power iterations do.",
            published="random unclear, power iteration at every step as clear as the exact one (figure C.2)",
            value=values(at("correlation", "random-direction"), at("correlation", "per-step-power")),
            holds=lambda v: v[0] < 0.95 < v[1],
            tolerance="Correlation with the map of exact singular values of every step",
            fails=[0.99, 0.99],
        ),
        Claim(
            id="H5",
            statement="LOLA and descent have different maps.",
            published="different ridges (figure C.4)",
            value=at("players"),
            holds=below(0.9),
            tolerance="Correlation of both maps",
            fails=0.95,
        ),
        Claim(
            id="H6",
            statement="With steps that are too large LOLA ends in cycles, with small ones it settles.",
            published="limit cycles for the larger step (figure C.5)",
            value=values(at("steps", "small"), at("steps", "large")),
            holds=increasing(),
            tolerance="Share of runs that still move by more than 0.05 per step at the end, inside the plane",
            fails=[0.2, 0.1],
        ),
        Claim(
            id="H7",
            statement="In random planes of the whole dilemma exponents are larger where ends differ.",
            published="ridges in random subspaces (figure 7)",
            value=at("subspaces", "mean"),
            holds=above(0.5),
            tolerance="Chance that a cell on the boundary has the larger value, mean over planes with a boundary",
            fails=0.4,
        ),
        Claim(
            id="H8",
            statement="The logistic map has the exponent ln 2 at r = 4, and the saddle-node map its closed forms.",
            published="figure C.7, where the saddle-node map is called logistic",
            value=lambda m: [
                abs(m["scalar"]["logistic"]["4"] - np.log(2)),
                *(abs(v - np.log(abs(1 - 2 * np.sqrt(-float(r))))) for r, v in m["scalar"]["saddle-node"].items()),
            ],
            holds=at_most(0.01),
            tolerance="Distances from the closed forms",
            fails=[0.1],
        ),
        Claim(
            id="H9",
            statement="The sum of both exponents has its maximum elsewhere than the largest one.",
            published="maxima may replace saddles (figure C.8)",
            value=lambda m: int(m["largest_at"]["both-sum"] != m["largest_at"]["exact"]),
            holds=at_least(1),
            tolerance="Whether the largest cells differ",
            fails=0,
        ),
    ),
)
