"""M-L2O, figure A5b: between an optimizer adapted to training-like problems and one adapted to the test's."""

import dataclasses
from typing import Any

import numpy as np

from ... import learned
from .._claims import Metrics, below, claims
from .._plots import lines
from .._recipe import Recipe, Results, Trial, grid
from . import _common as common
from ._common import LAPTOP, PAPER, SMOKE, Setting


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    setting: Setting = LAPTOP
    weights: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the first optimizer
    like_training: float = 10.0  # sigma of the first adaptation; the paper states neither
    like_test: float = 100.0  # sigma of the second adaptation, and of the test
    num_seeds: int = 10


def measure(trial: Trial, weight: float, method: str) -> dict[str, Any]:
    protocol = trial.protocol
    test = common.optimizees(protocol.setting, "lasso", protocol.like_test)

    def adapt(sigma: float) -> learned.AbstractLearnedOptimizer:
        own = common.optimizees(protocol.setting, "lasso", sigma)
        return common.adapted(trial, common.start(trial, method), own, test).optimizer

    first, second = (
        trial.once(f"{method}-{sigma:g}-{trial.repetition}", lambda folder, sigma=sigma: adapt(sigma))
        for sigma in (protocol.like_training, protocol.like_test)
    )
    between = learned.interpolate(first, second, weight)
    return {"score": common.adapted(trial, between, test, test, 0).score}


def _change(metrics: Metrics) -> dict[str, float]:
    return {
        method: round(metrics["scores"]["1"][method]["mean"] - metrics["scores"]["0"][method]["mean"], 3)
        for method in ("transfer-learning", "m-l2o")
    }


def _trend(metrics: Metrics) -> dict[str, float]:
    """The slope of the mean score over the weight, by least squares."""
    weights = [float(place) for place in metrics["scores"]]
    return {
        method: round(float(np.polyfit(weights, [e[method]["mean"] for e in metrics["scores"].values()], 1)[0]), 3)
        for method in ("transfer-learning", "m-l2o")
    }


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    del results
    weights = [float(place) for place in metrics["scores"]]
    curves = {
        method: (weights, [entry[method]["mean"] for entry in metrics["scores"].values()])
        for method in ("transfer-learning", "m-l2o")
    }
    return {"interpolation": lines({"test at sigma 100": curves}, ("weight of the training-like one", "log10 loss"))}


CLAIMS = claims(
    """
    M7 | published | The optimizer adapted to training-like problems is better than that adapted to the test's, for
        transfer learning and M-L2O. | qualitative (figure A5b) | Mean of log10 of the smallest loss at weight 1 minus
        that at weight 0
    M7-trend | published | More weight on the training-like one gives better results. | qualitative (figure A5b) |
        Slope of the mean over the weight
    """,
    {"M7": (_change, below(0), {"m-l2o": 0.1}), "M7-trend": (_trend, below(0), {"m-l2o": 0.1})},
)

RECIPE = Recipe(
    name="ml2o/interpolation",
    title="Interpolation between adaptations to training-like and to testing-like problems",
    source="Yang et al. 2023, figure A5b",
    scales={
        "smoke": Protocol(SMOKE, (0.0, 1.0), num_seeds=1),
        "laptop": Protocol(),
        "paper": Protocol(PAPER),
    },
    axes=("weights",),
    cells=lambda protocol: grid(weight=protocol.weights, method=("transfer-learning", "m-l2o")),
    measure=measure,
    summarize=common.summarize,
    tables=common.tables,
    pictures=pictures,
    claims=CLAIMS,
)
