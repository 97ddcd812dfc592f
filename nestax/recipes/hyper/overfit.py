"""Overfitting a small validation set: one weight decay per weight, up to 23 million of them."""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import optax

from ... import catalogue, data, hyperparameters, networks, optimizers, problems
from ..._tree import common_dtype
from .. import Metrics, Recipe, Trial, above, at, claims, equal, histories, measured, values
from ._common import draw, load, logistic_regression, rmsprop, tuned

NETWORKS: dict[str, Callable[[str], networks.AbstractArchitecture]] = {
    "linear": lambda name: logistic_regression(),
    "mlp": lambda name: networks.MLP(({"digits": 64, "mnist": 784, "cifar10": 3_072}[name],), "relu", None),
    "lenet": lambda name: catalogue.lenet_cifar() if name == "cifar10" else networks.lenet(),
    "alexnet": lambda name: networks.alexnet(),
    "resnet44": lambda name: networks.resnet44(),
}
SMALL = ("linear", "mlp", "lenet")


@dataclasses.dataclass(frozen=True)
class Run:
    """One network on one data set."""

    dataset: str  # "digits", "mnist" or "cifar10"
    network: str
    num_steps: int  # outer steps at most; as published 1,000
    num_seeds: int = 1
    learning_rate: float = 1e-4  # of the weights, Adam; as published but for AlexNet and ResNet44
    num_test: int = 10_000
    every: int = 50  # outer steps between two looks at the accuracies
    initial: float = -4.0  # logarithm of every decay; as published

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.network}" + (f" from {self.initial:g}" if self.initial != -4 else "")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figures are reproduced."""

    runs: tuple[Run, ...]
    num_examples: int = 50  # for training, and as many for validation; as published
    inner_steps: int = 5  # full batches, per outer step; as in the published code
    outer_learning_rate: float = 1e-2  # RMSprop; as published


class _Evaluate(eqx.Module):
    """Accuracies; a module and not a function, so that the data are no constants of the compiled program."""

    problem: problems.NestedClassifier
    test: data.Dataset

    def __call__(self, players):
        weights, problem = players[1], self.problem
        # batch norms take the statistics of the training images, as they do in training
        frozen = problem.architecture.frozen(weights, problem.train.images.astype(common_dtype(weights)))
        judged = problems.NestedClassifier(problem.train, problem.valid, frozen, problem.hyperparameters)
        sets = {"train": problem.train, "valid": problem.valid, "test": self.test}
        return {
            **{f"{name}_accuracy": judged.accuracy(weights, dataset) for name, dataset in sets.items()},
            "train_loss": judged.full_loss(weights, problem.train),
        }


def measure(trial: Trial, dataset: str, network: str, **run: Any) -> dict[str, Any]:
    """One run, until all training and validation examples are classified rightly, or `num_steps` are over."""
    p: Protocol = trial.protocol
    train, valid = draw(load(dataset, "train"), (p.num_examples, p.num_examples), trial.seed)
    family = hyperparameters.WeightDecay("weight", run["initial"])
    problem = problems.NestedClassifier(train, valid, NETWORKS[network](dataset), family)
    both = rmsprop(p.outer_learning_rate), optimizers.adam(run["learning_rate"])
    started = time.monotonic()
    tuning = tuned(
        trial,
        problem,
        both,
        (run["num_steps"], p.inner_steps),
        parts=run["num_steps"] // run["every"],
        evaluate=_Evaluate(problem, load(dataset, "test", run["num_test"])),
        callback=lambda record: record["train_accuracy"] == record["valid_accuracy"] == 1,
    )
    last = tuning.history[-1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "hyperparameters": optax.tree.size(tuning.players[0]),
        "steps": last["step"],
        **{name: last[f"{name}_accuracy"] for name in ("train", "valid", "test")},
        "valid_loss": last["outer_loss"],
        "seconds_per_step": (time.monotonic() - started) / last["step"],
        "peak_mebibytes": round(memory),  # of the whole process so far
        "history": [{k: r[k] for k in ("step", "valid_accuracy", "test_accuracy")} for r in tuning.history],
    }


@measured
def _reached(metrics: Metrics, kind: str, *names: str) -> float | None:
    """The smallest accuracy at the end, over runs and seeds."""
    each = values(*[at("cells", name, kind, "values", by=min) for name in names])(metrics)
    return None if each is None else min(each)


def _gap(metrics: Metrics) -> float | None:
    """The smallest distance of validation and test accuracy, of runs that have learned most validation examples."""
    pairs = [p for c in metrics["cells"].values() for p in zip(*(c[k]["values"] for k in ("valid", "test") if k in c))]
    return min((round(valid - test, 3) for valid, test in pairs if valid > 0.8), default=None)


EASY = ("mnist linear", "mnist mlp")
HARD = {"O2": "mnist lenet", "O6": "cifar10 alexnet", "O8": "cifar10 resnet44"}
HARD |= {f"O3-{network}": f"cifar10 {network}" for network in SMALL}
HUNDRED = "100% for all combinations (figures 3.5 and A.1)"
VALID = "Validation accuracy at the end, the smallest over seeds"
CLAIMS = claims(
    f"""
    O1 | published | Linear and fully connected networks on MNIST learn their 50 training examples by heart and, by one
        tuned decay per weight, their 50 validation examples. | {HUNDRED} | The smallest training and validation
        accuracy at the end, over networks and seeds
    O2 | published | So does LeNet on MNIST with its validation examples. | {HUNDRED} | {VALID}
        | 1,000 outer steps, at whose end the loss still falls
    O3-linear | published | So does the linear network on CIFAR-10. | {HUNDRED} | {VALID} | 2,000 outer steps, at whose
        end the loss still falls
    O3-mlp | published | So does the fully connected network on CIFAR-10. | {HUNDRED} | {VALID} | 120 of 1,000 outer
        steps
    O3-lenet | published | So does LeNet on CIFAR-10. | {HUNDRED} | {VALID} | 1,000 outer steps, at whose end the loss
        still falls
    O6 | published | So does AlexNet on CIFAR-10. | {HUNDRED} | {VALID} | 10 of 1,000 outer steps
    O8 | published | So does ResNet44 on CIFAR-10. | {HUNDRED} | {VALID} | 8 of 1,000 outer steps
    O4 | published | That is overfitting of the validation set: test accuracy stays clearly below.
        | test accuracy far below in every panel (figures 3.5 and A.1) | The smallest difference of both accuracies,
        over runs whose validation accuracy is above 0.8
    """,
    {
        "O1": (values(_reached("train", *EASY), _reached("valid", *EASY)), equal(1), [1.0, 0.98]),
        **{name: (_reached("valid", run), equal(1), 0.98) for name, run in HARD.items()},
        "O4": (_gap, above(0.05), 0.01),
    },
)

RECIPE = Recipe(
    name="hyper/overfit",
    title="One weight decay per weight, tuned until a small validation set is learned by heart",
    source="Lorraine 2024, figures 3.5 and A.1; Lorraine, Vicol, Duvenaud 2020, figure 3",
    scales={
        "smoke": Protocol((Run("digits", "linear", 4, num_test=50, every=2),), 10),
        "laptop": Protocol(
            (
                Run("mnist", "linear", 2_000, 2),
                Run("mnist", "mlp", 1_000, 2),
                Run("mnist", "lenet", 1_000, every=100),
                Run("cifar10", "linear", 6_000, 2),
                Run("cifar10", "lenet", 1_000, every=100),
                Run("cifar10", "mlp", 120, every=20),
                Run("cifar10", "alexnet", 10, num_test=500, every=5),
                Run("mnist", "alexnet", 16, 1, 1e-4, 500, 4, -9.0),
                Run("cifar10", "resnet44", 8, num_test=200, every=2),
            )
        ),
        "paper": Protocol(
            (
                *(Run(dataset, network, 1_000) for dataset in ("mnist", "cifar10") for network in SMALL),
                Run("mnist", "alexnet", 1_000, learning_rate=7e-4, num_test=1_000),
                Run("cifar10", "alexnet", 1_000, num_test=1_000),
                Run("mnist", "resnet44", 1_000, num_test=1_000),
                Run("cifar10", "resnet44", 1_000, learning_rate=1e-5, num_test=1_000),
            )
        ),
    },
    axes=("runs",),
    cells=lambda protocol: {run.name: dataclasses.asdict(run) for run in protocol.runs},
    measure=measure,
    pictures=lambda results, _: {"overfit": histories(results, "valid_accuracy", "test_accuracy")},
    claims=CLAIMS,
)
