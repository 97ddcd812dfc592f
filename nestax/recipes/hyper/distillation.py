"""Distillation: one made image per class, from which a classifier learns what it can."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ... import data, hyperparameters, optimizers, problems
from .. import Metrics, Recipe, Results, Trial, Value, above, at, claims, images, measured
from ._common import draw, load, logistic_regression, retrained, rmsprop, tuned


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast weights and images move."""

    name: str
    inner_steps: int  # full batches, per outer step
    learning_rate: float  # of the weights, Adam
    outer_learning_rate: float  # of the pixels, RMSprop


PUBLISHED = Pace("as published", 5, 1e-4, 1e-2)
FOLLOWED = Pace("weights keep up", 20, 1e-2, 1e-3)


@dataclasses.dataclass(frozen=True)
class Run:
    """One data set, at one pace."""

    dataset: str  # "digits", "mnist" or "cifar10"
    pace: Pace
    num_valid: int  # real examples that judge; 100 in the published code, all or 300 in the paper
    num_steps: int  # outer steps; up to 10,000 in the published code
    num_seeds: int = 1
    num_rivals: int = 20  # random choices of one real image per class, to compare with


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    runs: tuple[Run, ...]
    decay: float = -4.0  # logarithm of the weight decay, which is not tuned; as in the published code
    retrain_steps: int = 3_000  # of new weights on the ten images, to convergence
    retrain_learning_rate: float = 1e-2  # Adam


def measure(
    trial: Trial, dataset: str, pace: dict[str, Any], num_valid: int, num_steps: int, num_rivals: int
) -> dict[str, Any]:
    """Distils, trains anew on the result, and on real images for comparison."""
    p: Protocol = trial.protocol
    (valid,), test = draw(load(dataset, "train"), (num_valid,), trial.seed), load(dataset, "test")
    decay = hyperparameters.Fixed(hyperparameters.WeightDecay("all"), jnp.asarray(p.decay))
    family = hyperparameters.Compose(hyperparameters.DistilledData(), decay)
    problem = problems.NestedClassifier(valid, valid, logistic_regression(), family)
    rates = rmsprop(pace["outer_learning_rate"]), optimizers.adam(pace["learning_rate"])
    (made, _), weights = tuned(trial, problem, rates, (num_steps, pace["inner_steps"])).players

    def taught(examples: Array) -> float:
        """Test accuracy of new weights, trained on one image per class."""
        adam = optimizers.adam(p.retrain_learning_rate)
        anew = retrained(problem, (examples, ()), adam, p.retrain_steps, trial.seed)
        return float(problem.accuracy(anew, test))

    means = jnp.stack([valid.inputs[valid.labels == c].mean(axis=0) for c in range(valid.num_classes)])
    real = [taught(examples) for examples in _choices(valid, num_rivals, trial.seed)]
    return {
        "pixels": made.size,
        "weights along": problem.accuracy(weights, test),
        "new weights": taught(made),
        "class means": taught(means.reshape(made.shape)),
        "real images": float(np.mean(real)),
        "best real images": max(real),
        "images": made if trial.repetition == 0 else None,
    }


def _choices(dataset: data.Dataset, num: int, seed: int) -> list[jax.Array]:
    """`num` random choices of one example per class."""
    rng, labels = np.random.default_rng(seed), np.asarray(dataset.labels)
    places = [np.flatnonzero(labels == c) for c in range(dataset.num_classes)]
    return [dataset.images[np.array([rng.choice(place) for place in places])] for _ in range(num)]


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    """The images as published: sigmoid(5 x)."""
    rows = {name: seeds[0]["images"] for name, seeds in results.items() if "images" in seeds[0]}
    shown = {name: [(str(i), 1 / (1 + np.exp(-5 * np.array(x)))) for i, x in enumerate(r)] for name, r in rows.items()}
    return {"distillation": images(shown, cmap="gray", vmin=0, vmax=1)}


@measured
def _lead_over(metrics: Metrics, rival: str) -> float | None:
    """The smallest lead of new weights on distilled images over those on other images, where weights keep up."""
    cells = [cell for name, cell in metrics["cells"].items() if name.endswith(FOLLOWED.name) and cell]
    pairs = [pair for cell in cells for pair in zip(cell["new weights"]["values"], cell[rival]["values"])]
    return min((round(ours - theirs, 4) for ours, theirs in pairs), default=None)


def _accuracy(dataset: str, pace: Pace, weights: str = "new weights") -> Value:
    return at("cells", f"{dataset}, {pace.name}", weights, "mean", digits=4)


CLAIMS = claims(
    """
    T1 | ours | At the published pace the weights that are trained along know most of MNIST's test images.
        | recognizable digits (figure 3.6); no accuracy is printed | Test accuracy, mean over seeds
    T2 | ours | So does a classifier that is trained anew on the ten images that come out. | recognizable digits
        (figure 3.6); no accuracy is printed | Test accuracy of new weights, mean over seeds
    T3 | ours | So it does if the weights keep up with the images while these are made. | not stated | As T2
    T4 | ours | On CIFAR-10 new weights then do better than chance by far. | averages of colours (figure 3.6); no
        accuracy is printed | As T2; the bar is twice the chance of guessing
    T5 | ours | Images made so teach more than the best of some random choices of one real image per class. | not
        stated | Smallest difference of test accuracies, new weights in both cases, over data sets and seeds
    T6 | ours | They teach more than the mean image of every class does. | not stated | As T5
    """,
    {
        "T1": (_accuracy("mnist", PUBLISHED, "weights along"), above(0.8), 0.5),
        "T2": (_accuracy("mnist", PUBLISHED), above(0.8), 0.5),
        "T3": (_accuracy("mnist", FOLLOWED), above(0.8), 0.5),
        "T4": (_accuracy("cifar10", FOLLOWED), above(0.2), 0.15),
        "T5": (_lead_over("best real images"), above(0), -0.01),
        "T6": (_lead_over("class means"), above(0), -0.01),
    },
)


def _runs(num_valid: dict[str, int], num_steps: dict[Pace, int], num_seeds: int) -> tuple[Run, ...]:
    """All data sets at all paces."""
    pairs = [(name, pace) for name in num_valid for pace in num_steps]
    return tuple(Run(name, pace, num_valid[name], num_steps[pace], num_seeds) for name, pace in pairs)


RECIPE = Recipe(
    name="hyper/distillation",
    title="One distilled image per class, and what a classifier learns from them",
    source="Lorraine 2024, figure 3.6; Lorraine, Vicol, Duvenaud 2020, figure 5",
    scales={
        "smoke": Protocol((Run("digits", FOLLOWED, 50, 4, num_rivals=1),), retrain_steps=10),
        "laptop": Protocol(_runs({"mnist": 2_000, "cifar10": 300}, {PUBLISHED: 3_000, FOLLOWED: 1_500}, 2)),
        "paper": Protocol(_runs({"mnist": 50_000, "cifar10": 300}, dict.fromkeys((PUBLISHED, FOLLOWED), 10_000), 4)),
    },
    axes=("runs",),
    cells=lambda protocol: {f"{run.dataset}, {run.pace.name}": dataclasses.asdict(run) for run in protocol.runs},
    measure=measure,
    pictures=pictures,
    claims=CLAIMS,
)
