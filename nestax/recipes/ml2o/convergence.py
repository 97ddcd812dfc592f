"""M-L2O, figures 2 and 3: losses along the test runs on LASSO and quadratic problems, at two scales of A."""

import dataclasses
from typing import Any

import numpy as np

from .._claims import Metrics, claims
from .._plots import lines
from .._recipe import Recipe, Results, Trial, grid
from . import _common as common
from ._common import LAPTOP, METHODS, PAPER, SMOKE, Setting


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figures are reproduced."""

    setting: Setting = LAPTOP
    problems: tuple[str, ...] = ("lasso", "quadratic")
    sigmas: tuple[float, ...] = (50.0, 100.0)  # the paper does not state them; these fit what it says of figure 2
    num_points: int = 50  # of each curve
    num_seeds: int = 10


def measure(trial: Trial, problem: str, sigma: float, method: str) -> dict[str, Any]:
    family = common.optimizees(trial.protocol.setting, problem, sigma)
    run = common.adapted(trial, common.start(trial, method), family, family, common.steps_of(trial, method))
    at = _marks(trial.protocol)
    return {"score": run.score, "curve": list(np.log10(np.maximum(run.losses[at], 1e-30)))}


def _marks(protocol: Protocol) -> list[int]:
    """The steps at which curves are kept, evenly spaced on a logarithmic scale."""
    return sorted({round(x) - 1 for x in np.geomspace(1, protocol.setting.num_steps, protocol.num_points)})


def summarize(results: Results) -> Metrics:
    out = common.summarize(results)
    curves: dict[str, Any] = {}
    for name, seeds in results.items():
        place, _, method = name.rpartition("/")
        curves.setdefault(place, {})[method] = np.mean([one["curve"] for one in seeds], axis=0).tolist()
    return {**out, "steps": [m + 1 for m in _marks(results.protocol)], "curves": curves}


def _order(problem: str) -> Any:
    def value(metrics: Metrics) -> dict[str, list[float]]:
        return {
            place: [round(row[method]["mean"], 3) for method in METHODS[::-1]]
            for place, row in metrics["scores"].items()
            if place.startswith(problem)
        }

    return value


def _speedup(metrics: Metrics) -> dict[str, float | None]:
    """Steps of transfer learning over those of M-L2O until the mean curve is where that of transfer learning ends."""
    out = {}
    for place, curves in metrics["curves"].items():
        level = min(curves["transfer-learning"])
        theirs, ours = (
            next((s for s, y in zip(metrics["steps"], curves[name]) if y <= level), None)
            for name in ("transfer-learning", "m-l2o")
        )
        out[place] = None if theirs is None or ours is None else round(theirs / ours, 2)
    return out


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    del results
    panels = {
        place: {name: (metrics["steps"], curve) for name, curve in curves.items()}
        for place, curves in metrics["curves"].items()
    }
    return {"curves": lines(panels, ("steps", "log10 of the loss, mean over repeats"), log="x")}


CLAIMS = claims(
    """
    M2-curves | published | On LASSO at both scales the order is M-L2O, transfer learning, direct transfer, vanilla. |
        qualitative (figure 2) | Means over repeats of log10 of the smallest loss, in this order
    M2-speed | published | M-L2O gets to the lowest loss of transfer learning in fewer steps. | qualitative (figure 2) |
        Steps of transfer learning over those of M-L2O, of the mean curves
    M4 | published | On quadratic problems the order is the same. | qualitative (figure 3) | As for LASSO; the
        meta-training is that on LASSO
    """,
    {
        "M2-curves": (_order("lasso"), common.all_ascending, {"lasso/50": [1.0, 0.5, 0.2, 2.0]}),
        "M2-speed": (_speedup, common.all_above_one, {"lasso/50": 0.5}),
        "M4": (_order("quadratic"), common.all_ascending, {"quadratic/50": [1.0, 0.5, 0.2, 2.0]}),
    },
)

RECIPE = Recipe(
    name="ml2o/convergence",
    title="M-L2O and its rivals along the test runs, on LASSO and quadratic problems",
    source="Yang et al. 2023, figures 2 and 3",
    scales={
        "smoke": Protocol(SMOKE, ("lasso",), (50.0,), 3, 1),
        "laptop": Protocol(),
        "paper": Protocol(PAPER),
    },
    axes=("problems", "sigmas"),
    cells=lambda protocol: grid(problem=protocol.problems, sigma=protocol.sigmas, method=METHODS),
    measure=measure,
    summarize=summarize,
    tables=common.tables,
    pictures=pictures,
    claims=CLAIMS,
)
