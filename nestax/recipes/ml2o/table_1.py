"""M-L2O, table 1: four methods on LASSO with A from N(0, sigma^2), adapted and tested at the same sigma."""

import dataclasses
from typing import Any

from .._claims import Metrics, above, claims
from .._recipe import Recipe, Trial, grid
from . import _common as common
from ._common import LAPTOP, METHODS, PAPER, SMOKE, Setting


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the table is reproduced."""

    setting: Setting = LAPTOP
    sigmas: tuple[float, ...] = (10.0, 25.0, 50.0, 100.0, 200.0)
    num_seeds: int = 10  # repeats, each with trainings and optimizees of its own


PUBLISHED = {  # of the same methods
    "10": (0.033, -4.233, -4.077, -3.712),
    "25": (1.559, -4.125, -4.019, -3.433),
    "50": (0.550, -3.098, -3.181, -3.285),
    "100": (2.435, -1.775, -1.961, -2.408),
    "200": (4.104, -0.453, -0.982, -1.396),
}
NEAR, FAR = ("10", "25"), ("50", "100", "200")


def measure(trial: Trial, sigma: float, method: str) -> dict[str, Any]:
    family = common.optimizees(trial.protocol.setting, "lasso", sigma)
    optimizer = common.start(trial, method)
    run = common.adapted(trial, optimizer, family, family, common.steps_of(trial, method))
    excess = common.excess(trial, run, f"{sigma:g}", family)
    return {"score": run.score, "excess": excess, "adapted": run.adapted}


def _means(metrics: Metrics, places: tuple[str, ...]) -> dict[str, list[float]]:
    found = {place: [metrics["scores"][place][method]["mean"] for method in METHODS] for place in places}
    return {place: [round(x, 3) for x in row] for place, row in found.items()}


def _ahead(places: tuple[str, ...]) -> Any:
    """By how much both rivals are better than M-L2O."""
    return lambda metrics: {
        place: {name: round(-metrics["minus"][place][name]["mean"], 3) for name in METHODS[1:3]} for place in places
    }


def _adaptation_costs(metrics: Metrics) -> dict[str, float]:
    return {place: round(row[2] - row[1], 3) for place, row in _means(metrics, NEAR).items()}


def _order(metrics: Metrics) -> dict[str, list[float]]:
    return {place: row[::-1] for place, row in _means(metrics, FAR).items()}


def _vanilla_last(value: dict[str, list[float]]) -> bool:
    return all(row[0] > 0 and row[0] == max(row) for row in value.values())


CLAIMS = claims(
    """
    M1 | published | For sigma at most 25 direct transfer and transfer learning are both better than M-L2O. |
        by 0.521 and 0.365 at sigma 10, 0.692 and 0.586 at 25 | Mean paired difference in log10
    M1-adaptation | published | For sigma at most 25 direct transfer is better than transfer learning: adaptation hurts.
        | by 0.156 at sigma 10, 0.106 at 25 | Difference of means in log10
    M2 | published | From sigma 50 on the order is M-L2O, transfer learning, direct transfer, vanilla. |
        -3.285, -3.181, -3.098, 0.550 at sigma 50; -2.408, -1.961, -1.775, 2.435 at 100; -1.396, -0.982, -0.453, 4.104
        at 200 | Means in log10, in this order
    M3 | published | Vanilla L2O is the worst at every sigma, and its objective stays above 1. |
        0.033, 1.559, 0.550, 2.435, 4.104 | Means in log10 of all four methods, vanilla first
    M-noise | control | In the repeats the differences between M-L2O and transfer learning are larger than their
        spread: some interval of the paired difference excludes zero. | not stated | The largest distance from zero of
        the near end of a 95 % interval over the sigmas
    """,
    {
        "M1": (_ahead(NEAR), above(0), {"10": {"direct-transfer": -0.1}}),
        "M1-adaptation": (_adaptation_costs, above(0), {"10": -0.1}),
        "M2": (_order, common.all_ascending, {"50": [-3.0, -3.1, -3.2, 0.5]}),
        "M3": (lambda metrics: _means(metrics, NEAR + FAR), _vanilla_last, {"10": [-1.0, -4.2, -4.1, -3.7]}),
        "M-noise": (lambda metrics: _clearest(metrics), above(0), -0.1),
    },
)


def _clearest(metrics: Metrics) -> float | None:
    ends = [entry["transfer-learning"]["interval"] for entry in metrics["minus"].values()]
    return round(max(max(low, -high) for low, high in ends), 3) if None not in ends else None


def tables(metrics: Metrics) -> dict[str, Any]:
    published = {place: dict(zip(METHODS, row)) for place, row in PUBLISHED.items()}
    return {**common.tables(metrics), "As published": published}


RECIPE = Recipe(
    name="ml2o/table-1",
    title="M-L2O against vanilla L2O, direct transfer and transfer learning on LASSO over the scale of the matrix",
    source="Yang et al. 2023, table 1",
    scales={
        "smoke": Protocol(SMOKE, (10.0,), 1),
        "laptop": Protocol(),
        "paper": Protocol(PAPER),
    },
    axes=("sigmas",),
    cells=lambda protocol: grid(sigma=protocol.sigmas, method=METHODS),
    measure=measure,
    summarize=common.summarize,
    tables=tables,
    claims=CLAIMS,
)
