"""M-L2O, figure 4: on which distribution to adapt, for a test at sigma 100."""

import dataclasses
from typing import Any

from .._claims import Metrics, below, claims, first_is_least
from .._recipe import Recipe, Trial, grid
from . import _common as common
from ._common import LAPTOP, PAPER, SMOKE, Setting


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    setting: Setting = LAPTOP
    adaptations: tuple[str, ...] = ("train", "10", "25", "50", "100", "200")  # the training's, or sigma
    test_sigma: float = 100.0  # the paper does not state it; this one fits its text
    num_seeds: int = 10


def measure(trial: Trial, adaptation: str, method: str) -> dict[str, Any]:
    setting = trial.protocol.setting
    test = common.optimizees(setting, "lasso", trial.protocol.test_sigma)
    of_training = adaptation == "train"
    own = common.optimizees(setting, "train" if of_training else "lasso", 1.0 if of_training else float(adaptation))
    run = common.adapted(trial, common.start(trial, method), own, test, common.steps_of(trial, method))
    return {"score": run.score}


def _by_sigma(method: str) -> Any:
    def value(metrics: Metrics) -> list[float]:
        return [round(metrics["scores"][place][method]["mean"], 3) for place in ("10", "25", "50", "100", "200")]

    return value


def _change(method: str, first: str, last: str) -> Any:
    return lambda metrics: round(metrics["scores"][last][method]["mean"] - metrics["scores"][first][method]["mean"], 3)


CLAIMS = claims(
    """
    M6 | published | M-L2O is best where it adapts to problems like those of the training, sigma 10. |
        qualitative (figure 4) | log10 of the smallest loss at sigma 100 after adaptation at sigma 10, 25, 50, 100, 200
    M6-second | published | It has a second good region at large sigma: adaptation at 200 is better than at 50. |
        qualitative (figure 4) | Difference of means in log10
    M6-transfer | published | Transfer learning improves the more the adaptation is like the test: sigma 200 is better
        than 10. | qualitative (figure 4) | Difference of means in log10
    """,
    {
        "M6": (_by_sigma("m-l2o"), first_is_least(strictly=False), [0.5, 0.4, 0.6, 0.6, 0.6]),
        "M6-second": (_change("m-l2o", "50", "200"), below(0), 0.1),
        "M6-transfer": (_change("transfer-learning", "10", "200"), below(0), 0.1),
    },
)

RECIPE = Recipe(
    name="ml2o/adaptation-distribution",
    title="M-L2O and transfer learning adapted on one scale of LASSO and tested on another",
    source="Yang et al. 2023, figure 4",
    scales={
        "smoke": Protocol(SMOKE, ("10",), num_seeds=1),
        "laptop": Protocol(),
        "paper": Protocol(PAPER),
    },
    axes=("adaptations",),
    cells=lambda protocol: grid(adaptation=protocol.adaptations, method=("transfer-learning", "m-l2o")),
    measure=measure,
    summarize=common.summarize,
    tables=common.tables,
    claims=CLAIMS,
)
