"""M-L2O on Rosenbrock's function: meta-trained on LASSO, adapted to and tested on batches of points in the valley."""

import dataclasses
from typing import Any

import numpy as np

from .._claims import Metrics, claims, first_is_least
from .._recipe import Recipe, Results, Trial, grid
from .._tables import spread
from . import _common as common
from ._common import LAPTOP, METHODS, PAPER, SMOKE, Setting


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    setting: Setting = LAPTOP
    adaptation_steps: tuple[int, ...] = (5, 50)  # as in the text; as in the released command
    mark: int = 500  # the step at which the paper states values
    num_seeds: int = 10


def measure(trial: Trial, steps: int, method: str) -> dict[str, Any]:
    family = common.optimizees(trial.protocol.setting, "rosenbrock")
    num = 0 if method == "direct-transfer" else steps
    run = common.adapted(trial, common.start(trial, method), family, family, num)
    return {"score": run.score, "at_mark": float(np.log10(run.losses[: trial.protocol.mark][-1]))}


def summarize(results: Results) -> Metrics:
    marks = {name: spread([one["at_mark"] for one in seeds]) for name, seeds in results.items()}
    return {**common.summarize(results), "at_mark": marks}


def _means(metrics: Metrics) -> list[float]:
    return [round(metrics["scores"]["5"][method]["mean"], 3) for method in METHODS[::-1]]


def _at_mark(metrics: Metrics) -> list[float]:
    return [round(metrics["at_mark"][f"5/{method}"]["mean"], 3) for method in METHODS[::-1]]


def _with_fifty(metrics: Metrics) -> list[float]:
    return [round(metrics["scores"]["50"][method]["mean"], 3) for method in METHODS[::-1]]


def tables(metrics: Metrics) -> dict[str, Any]:
    at_mark = {name: {"log10 of the loss": common.interval(one)} for name, one in metrics["at_mark"].items()}
    return {**common.tables(metrics), "At step 500, mean over repeats and its 95 % interval": at_mark}


CLAIMS = claims(
    """
    M5 | published | Meta-trained on LASSO and adapted to Rosenbrock's function, M-L2O is the best of the four. |
        qualitative (table A5; its numbers are lost) | Means of log10 of the smallest loss: M-L2O, transfer learning,
        direct transfer, vanilla
    M5-500 | published | So it is at step 500. | qualitative | Means of log10 of the loss, in the same order
    M5-50 | published | So it is with the 50 steps of adaptation of the released command. | not stated | As M5
    """,
    {
        "M5": (_means, first_is_least(), [0.0, -0.1, 0.2, 0.3]),
        "M5-500": (_at_mark, first_is_least(), [0.0, -0.1, 0.2, 0.3]),
        "M5-50": (_with_fifty, first_is_least(), [0.0, -0.1, 0.2, 0.3]),
    },
)

RECIPE = Recipe(
    name="ml2o/rosenbrock",
    title="M-L2O meta-trained on LASSO, adapted to Rosenbrock's function",
    source="Yang et al. 2023, section 5 and eq. 15",
    scales={
        "smoke": Protocol(SMOKE, (5,), 5, 1),
        "laptop": Protocol(),
        "paper": Protocol(PAPER),
    },
    axes=("adaptation_steps",),
    cells=lambda protocol: grid(steps=protocol.adaptation_steps, method=METHODS),
    measure=measure,
    summarize=summarize,
    tables=tables,
    claims=CLAIMS,
)
