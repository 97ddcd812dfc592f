"""How much data to keep for validation, with one tuned decay and with one per weight."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ... import data, hyper, hyperparameters, optimizers, problems
from .. import Metrics, Recipe, Trial, above, at_most, by_key, claims, difference, gather, grid, measured
from ._common import draw, load, logistic_regression, retrained, rmsprop, tuned

FAMILIES = {"global": "all", "per weight": "weight"}
KINDS = {"along": "as they are", "anew": "trained anew"}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    data: str = "mnist"
    sizes: tuple[int, ...] = (100, 200, 1_600)  # examples for training and validation together; as published
    proportions: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)  # kept for validation; as published
    num_seeds: int = 4  # as published
    num_steps: int = 250  # full batches, one step of the decays after each; as published
    learning_rate: float = 0.1  # SGD with Nesterov momentum 0.9; as published
    outer_learning_rate: float = 1e-2  # RMSprop; as published
    initial: float = -7.0  # logarithm of every decay; as published
    num_test: int = 10_000


def measure(trial: Trial, size: int, family: str, proportion: float) -> dict[str, Any]:
    """Test accuracies of the weights that were trained along, and of new ones trained on all examples."""
    protocol, num_valid = trial.protocol, round(size * proportion)
    test = load(protocol.data, "test", protocol.num_test)
    optimizer = optimizers.nesterov(protocol.learning_rate)  # momentum 0.9, as in the published code
    decay = hyperparameters.WeightDecay(FAMILIES[family], protocol.initial)

    def problem(train: data.Dataset, valid: data.Dataset) -> problems.NestedClassifier:
        return problems.NestedClassifier(train, valid, logistic_regression(), decay)

    (everything,) = draw(load(protocol.data, "train"), (size,), trial.seed)
    whole = problem(everything, everything)
    if num_valid:
        method = hyper.Implicit(hyper.Identity(protocol.learning_rate), residual=False)
        both, steps = (rmsprop(protocol.outer_learning_rate), optimizer), (protocol.num_steps, 1)
        tuning = tuned(trial, problem(*everything.split(size - num_valid)), both, steps, method=method)
        values, along = tuning.players
    else:  # nothing to tune with: no decay at all
        values, along = jax.tree.map(lambda x: x - np.inf, whole.init(trial.key)[0]), None
    anew = retrained(whole, values, optimizer, protocol.num_steps, trial.seed)
    return {"along": whole.accuracy(anew if along is None else along, test), "anew": whole.accuracy(anew, test)}


def tables(metrics: Metrics) -> dict[str, Any]:
    return {
        f"{size} examples: test accuracy by proportion kept for validation, mean over seeds [min, max]": {
            f"{family}, {words}": {p: cell[kind] for p, cell in rows[family].items()}
            for family in rows
            for kind, words in KINDS.items()
        }
        for size, rows in metrics["accuracies"].items()
    }


def _means(proportions: dict[str, Any], kind: str) -> dict[float, float]:
    """Proportions other than zero, and the mean test accuracy at each."""
    return {float(p): float(np.mean(cell[kind])) for p, cell in proportions.items() if float(p) > 0}


@measured
def _best(metrics: Metrics, family: str, kind: str) -> list[float]:
    """Per size, the proportion (other than zero) with the highest mean test accuracy."""
    means = [_means(rows[family], kind) for rows in metrics["accuracies"].values()]
    return [max(m, key=lambda p: m[p]) for m in means]


@measured
def _gain_of_best(metrics: Metrics, family: str) -> list[float]:
    """Per size, what training anew adds to the mean test accuracy, each at its best proportion."""
    pairs = [[max(_means(rows[family], kind).values()) for kind in KINDS] for rows in metrics["accuracies"].values()]
    return [anew - along for along, anew in pairs]


def _gain_at_half(metrics: Metrics) -> list[float]:
    cells = [rows["per weight"]["0.5"] for rows in metrics["accuracies"].values()]
    return [round(float(np.mean(cell["anew"]) - np.mean(cell["along"])), 4) for cell in cells]


MORE = difference(_best("per weight", "anew"), _best("global", "anew"), digits=12)
GAINS = difference(_gain_of_best("per weight"), _gain_of_best("global"))

CLAIMS = claims(
    """
    V1 | published | With one decay for all weights the best proportion is small, about 10%, also without training
        anew. | about 10% with and without training anew (figure 3.9) | The best proportion at each size; the bar is
        the neighbour of 0.1 on the grid
    V2 | published | With one decay per weight and training anew the best proportion is larger than with a single
        decay. | larger (figure 3.9) | Difference of the best proportions at each size; never negative, and positive
        somewhere
    V3 | published | With one decay per weight training anew pays, once half of the data are kept for validation.
        | training anew is needed (figure 3.9) | Gain in mean test accuracy at proportion 0.5, per size
    V4 | published | The best accuracy profits more from training anew with one decay per weight than with a single
        one. | only the former needs it (figure 3.9) | Difference of the gains in mean test accuracy, each at its
        best proportion, per size
    """,
    {
        "V1": (
            lambda metrics: {kind: _best("global", kind)(metrics) for kind in KINDS},
            at_most(0.25),
            {"along": [0.1, 0.1], "anew": [0.5, 0.1]},
        ),
        "V2": (MORE, lambda value: min(value) >= 0 and max(value) > 0, [0.5, -0.1]),
        "V3": (_gain_at_half, above(0), [0.01, -0.001]),
        "V4": (GAINS, above(0), [0.01, -0.001]),
    },
)

RECIPE = Recipe(
    name="hyper/split",
    title="How much data to keep for validation when decays are tuned: one for all weights, or one per weight",
    source="Lorraine 2024, figure 3.9; Lorraine, Vicol, Duvenaud 2020, appendix B",
    scales={
        "smoke": Protocol("digits", (40,), (0.0, 0.5), 1, 10),
        "laptop": Protocol(sizes=(100, 1_600), num_seeds=3),
        "paper": Protocol(),
    },
    axes=("sizes", "proportions"),
    cells=lambda p: grid(size=p.sizes, family=tuple(FAMILIES), proportion=p.proportions),
    measure=measure,
    summarize=gather("accuracies", by_key),
    tables=tables,
    claims=CLAIMS,
)
