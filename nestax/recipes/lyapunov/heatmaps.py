"""Figures 5.6, 5.7 and C.2 to C.8: maps of Lyapunov exponents, and what their ridges are."""

from typing import Any

import numpy as np

from .. import Recipe, above, at, at_least, at_most, below, claims, difference, increasing, values
from . import PAPER
from ._heatmaps import Protocol, measure
from ._planes import boundary, ranked_above


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    maps = {f"map/{name}": {"part": "map", "variant": name} for name in protocol.variants}
    return {
        name: settings
        for part in protocol.parts
        for name, settings in (maps.items() if part == "map" else [(part, {"part": part})])
    }


def summarize(results: Any) -> dict[str, Any]:
    first = {name: trials[0] for name, trials in results.items()}
    edges = {name: boundary(np.array(first["ends"][name])) for name in ("lola", "descent")}
    maps = {name: np.array(first[f"map/{name}"]["values"], float) for name in results.protocol.variants}
    edge, reference = edges["lola"], maps.get("per-step", maps["exact"]).reshape(-1)
    best = {name: np.unravel_index(np.argmax(shown), shown.shape) for name, shown in maps.items()}
    others = {
        name: {k: v for k, v in first[name].items() if k != "points"}
        for name in ("ascent", "steps", "subspaces", "scalar", "gan")
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
    panels += [(name, np.array(results[f"map/{name}"][0]["values"], float)) for name in p.variants]
    for axes, (name, shown) in zip(figure.subplots(2, 4).flat, panels):
        image = axes.pcolormesh(ticks, ticks, shown.T, shading="nearest", cmap="viridis")
        axes.set_title(name, fontsize=9)
        figure.colorbar(image, ax=axes)
        if name == "exact" and "ascent" in results:
            axes.plot(*np.array(results["ascent"][0]["points"]).T, ".", color="red", markersize=4)
    del metrics
    return {"maps": figure}


CLAIMS = """
H1 | published | The exponent of many steps is larger on the boundary between basins than elsewhere. | a ridge
    separates the basins (figure 6) | Mean over cells with a neighbour that ends elsewhere, minus the mean over all
    others
H2 | published | Ascent of the exponent ends near a boundary more often than it starts there. | ascent ends on the
    ridge (figure 6) | Shares of points within 0.15 of one that ends elsewhere
H3 | published | One step does not show the boundary, many do. | not visible for one step, visible for ten (figure
    C.3) | Chance that a cell on the boundary has the larger value than another, for one step and for many; 1/2 says
    nothing
H4 | published | A random direction does not show what singular vectors show; ten power iterations do. | random
    unclear, power iteration at every step as clear as the exact one (figure C.2) | Correlation with the map of exact
    singular values of every step; below 0.95 and above it
H5 | published | LOLA and descent have different maps. | different ridges (figure C.4) | Correlation of both maps
H6 | published | With steps that are too large LOLA ends in cycles, with small ones it settles. | limit cycles for the
    larger step (figure C.5) | Share of runs that still move by more than 0.3 in their last 30 steps
H7 | published | In random planes of the whole dilemma exponents are larger where ends differ. | ridges in random
    subspaces (figure 7) | Chance that a cell on the boundary has the larger value, mean over planes with a boundary
H8 | published | The logistic map has the exponent ln 2 at r = 4, and the saddle-node map its closed forms. | figure
    C.7, where the saddle-node map is called logistic | Distances from the closed forms
H9 | published | The sum of both exponents has its maximum elsewhere than the largest one. | maxima may replace
    saddles (figure C.8) | Whether the largest cells differ
H10 | ours | In random planes of a small GAN steps separate runs in some places and bring them together in others. |
    none | Smallest and largest exponent of ten steps over all planes; below 0 and above 0.01
"""


def _off_scalar(m: dict[str, Any]) -> list[float]:
    closed = {r: np.log(abs(1 - 2 * np.sqrt(-float(r)))) for r in m["scalar"]["saddle-node"]}
    saddles = [abs(v - closed[r]) for r, v in m["scalar"]["saddle-node"].items()]
    return [abs(m["scalar"]["logistic"]["4"] - np.log(2)), *saddles]


RECIPE = Recipe(
    name="lyapunov/heatmaps",
    title="Where runs separate: maps of Lyapunov exponents",
    source=f"{PAPER}, figures 6, 7, C.2 to C.8",
    scales={
        "smoke": Protocol(5, horizon=2, num_steps=10, parts=("ends", "map"), variants=("exact",)),
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
    claims=claims(
        CLAIMS,
        {
            "H1": (difference(at("on_boundary"), at("elsewhere")), above(0.0), -0.1),
            "H2": (values(at("ascent", "before"), at("ascent", "after")), increasing(), [0.5, 0.5]),
            "H3": (values(at("area", "one-step"), at("area", "exact")), lambda v: v[0] < 0.6 < v[1], [0.3, 0.4]),
            "H4": (
                values(at("correlation", "random-direction"), at("correlation", "per-step-power")),
                lambda v: v[0] < 0.95 < v[1],
                [0.99, 0.99],
            ),
            "H5": (at("players"), below(0.9), 0.95),
            "H6": (
                values(at("steps", "small"), at("steps", "large")),
                lambda v: v[0] < 0.1 and v[1] > 0.5,
                [0.2, 0.1],
            ),
            "H7": (at("subspaces", "mean"), above(0.5), 0.4),
            "H8": (_off_scalar, at_most(0.01), [0.1]),
            "H9": (lambda m: int(m["largest_at"]["both-sum"] != m["largest_at"]["exact"]), at_least(1), 0),
            "H10": (at("gan", "range"), lambda v: v[0] < 0 and v[1] > 0.01, [0.1, 0.2]),
        },
    ),
)
