"""Distillation: one made image per class, from which a classifier learns what it can."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from ... import data, hyper, hyperparameters, networks, optimizers, problems
from ..._progress import progress_bar
from ..._storage import save_figure
from .._cache import cached
from .._recipe import Claim, Metrics, Recipe
from ._common import draw, load, retrained, rmsprop, rounded, spread


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


def _train_anew(made, train, protocol: Protocol, seed: int):
    """New weights, trained on the images `made`, one per class, and the problem that they solve."""
    decay = hyperparameters.Fixed(hyperparameters.WeightDecay("all"), jnp.asarray(protocol.decay))
    family = hyperparameters.Compose(hyperparameters.DistilledData(made.shape[0] // train.num_classes), decay)
    problem = problems.NestedClassifier(train, train, networks.MLP((), init_scale=None), family)
    optimizer = optimizers.adam(protocol.retrain_learning_rate)
    return problem, retrained(problem, (made, ()), optimizer, protocol.retrain_steps, seed)


def measure(run: Run, protocol: Protocol, seed: int) -> dict[str, Any]:
    """Distils, trains anew on the result, and on real images for comparison."""
    (valid,) = draw(load(run.dataset, "train"), (run.num_valid,), seed)
    test = load(run.dataset, "test")
    decay = hyperparameters.Fixed(hyperparameters.WeightDecay("all"), jnp.asarray(protocol.decay))
    family = hyperparameters.Compose(hyperparameters.DistilledData(), decay)
    problem = problems.NestedClassifier(valid, valid, networks.MLP((), init_scale=None), family)
    tuning = hyper.tune(
        problem,
        optimizer=optimizers.adam(run.pace.learning_rate),
        outer_optimizer=rmsprop(run.pace.outer_learning_rate),
        method=hyper.Implicit(hyper.Identity(), residual=False),
        num_outer_steps=run.num_steps,
        num_inner_steps=run.pace.inner_steps,
        key=jax.random.key(seed),
        record_every=run.num_steps // 10,
    )
    (made, _), weights = tuning.players
    anew, fresh = _train_anew(made, valid, protocol, seed)
    real = _choices(valid, run.num_rivals, seed)
    rivals = [float(anew.accuracy(_train_anew(images, valid, protocol, seed)[1], test)) for images in real]
    means = jnp.stack([valid.inputs[valid.labels == c].mean(axis=0) for c in range(valid.num_classes)])
    _, averaged = _train_anew(means.reshape(made.shape), valid, protocol, seed)
    return {
        "hyperparameters": made.size,
        "valid_loss": [rounded(record["outer_loss"]) for record in tuning.history],
        "warm": {"valid": rounded(anew.accuracy(weights, valid)), "test": rounded(anew.accuracy(weights, test))},
        "fresh": {"valid": rounded(anew.accuracy(fresh, valid)), "test": rounded(anew.accuracy(fresh, test))},
        "real": [rounded(value) for value in rivals],
        "means": rounded(anew.accuracy(averaged, test)),
        "images": np.asarray(made, np.float64).round(3).tolist() if seed % 100 == 0 else None,
    }


def _choices(dataset: data.Dataset, num: int, seed: int) -> list[jax.Array]:
    """`num` random choices of one example per class."""
    rng, labels = np.random.default_rng(seed), np.asarray(dataset.labels)
    places = [np.flatnonzero(labels == c) for c in range(dataset.num_classes)]
    return [dataset.images[np.array([rng.choice(place) for place in places])] for _ in range(num)]


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Finished runs are kept in `rows/`; the images are drawn, and not part of the recorded result."""
    rows: dict[str, Any] = {}
    shared = {**dataclasses.asdict(protocol), "runs": None, "seed": seed}
    with progress_bar(len(protocol.runs), "runs", progress) as report:
        for i, one in enumerate(protocol.runs):
            name = f"{one.dataset}, {one.pace.name}"
            report(i, lambda name=name: name)
            wanted = {**shared, "run": dataclasses.asdict(one)}
            rows[name] = [
                cached(
                    folder / "rows" / name.replace(", ", "-").replace(" ", "-") / f"{s}.json",
                    wanted,
                    lambda one=one, s=s: measure(one, protocol, 100 * seed + s),
                )
                for s in range(one.num_seeds)
            ]
    _plot({name: np.array(results[0]["images"]) for name, results in rows.items()}, folder / "distillation.png")
    kept = {name: [{**result, "images": None} for result in results] for name, results in rows.items()}
    return {"rows": kept, "tables": [_table(kept)]}


def _plot(images: dict[str, np.ndarray], path: Path) -> None:
    """The images as published: sigmoid(5 x)."""
    num = max(len(made) for made in images.values())
    figure = matplotlib.figure.Figure(figsize=(0.9 * num, 1.1 * len(images)), layout="constrained")
    for row, made in zip(figure.subplots(len(images), num, squeeze=False), images.values()):
        for ax, image in zip(row, made):
            ax.imshow(1 / (1 + np.exp(-5 * image)), cmap="gray", vmin=0, vmax=1)
            ax.axis("off")
    save_figure(path, figure)


def _table(rows: dict[str, Any]) -> dict[str, str]:
    lines = [
        "| data | pixels | weights along | new weights | class means | one real image per class |",
        "|---|---|---|---|---|---|",
    ]
    for name, results in rows.items():
        real = [value for result in results for value in result["real"]]
        cells = [
            spread([r["warm"]["test"] for r in results]),
            spread([r["fresh"]["test"] for r in results]),
            spread([r["means"] for r in results]),
            spread(real),
        ]
        lines.append(f"| {name} | {results[0]['hyperparameters']:,} | {' | '.join(cells)} |")
    return {
        "title": "Test accuracy, mean over seeds [min, max]: of the weights that were trained along, of new ones "
        "trained on the distilled images, on the class means of the validation data, on real images",
        "markdown": "\n".join(lines) + "\n",
    }


def _above(name: str):
    """The smallest lead of new weights on distilled images over those on other images, where weights keep up."""

    def value(metrics: Metrics) -> float:
        rows = [results for key, results in metrics["rows"].items() if key.endswith(FOLLOWED.name)]
        results = [result for results in rows for result in results]
        rival = (lambda r: max(r["real"])) if name == "real" else (lambda r: r["means"])
        return rounded(min(r["fresh"]["test"] - rival(r) for r in results), 3)

    return value


def _of(dataset: str, pace: Pace, weights: str = "fresh"):
    """The mean test accuracy on a data set; `None` where it was not run."""

    def value(metrics: Metrics) -> float | None:
        results = metrics["rows"].get(f"{dataset}, {pace.name}")
        return None if results is None else rounded(np.mean([r[weights]["test"] for r in results]), 4)

    return value


def _pixels(metrics: Metrics) -> list[int]:
    return sorted({results[0]["hyperparameters"] for results in metrics["rows"].values()})


CLAIMS = (
    Claim(
        id="T1",
        statement="At the published pace the weights that are trained along know most of MNIST's test images.",
        published="recognizable digits (figure 3.6); no accuracy is printed",
        value=_of("mnist", PUBLISHED, "warm"),
        holds=lambda value: value > 0.8,
        tolerance="Value: test accuracy, mean over seeds; above 0.8.",
    ),
    Claim(
        id="T2",
        statement="So does a classifier that is trained anew on the ten images that come out.",
        published="recognizable digits (figure 3.6); no accuracy is printed",
        value=_of("mnist", PUBLISHED),
        holds=lambda value: value > 0.8,
        tolerance="Value: test accuracy of new weights, mean over seeds; above 0.8.",
    ),
    Claim(
        id="T3",
        statement="So it does if the weights keep up with the images while these are made.",
        published="not stated",
        value=_of("mnist", FOLLOWED),
        holds=lambda value: value > 0.8,
        tolerance="As T2.",
    ),
    Claim(
        id="T4",
        statement="On CIFAR-10 new weights then do better than chance by far.",
        published="averages of colours (figure 3.6); no accuracy is printed",
        value=_of("cifar10", FOLLOWED),
        holds=lambda value: value > 0.2,
        tolerance="As T2; above 0.2, twice the chance of guessing.",
    ),
    Claim(
        id="T5",
        statement="Images made so teach more than the best of some random choices of one real image per class.",
        published="not stated",
        value=_above("real"),
        holds=lambda value: value > 0,
        tolerance="Value: smallest difference of test accuracies, new weights in both cases, over data sets and "
        "seeds; above 0.",
    ),
    Claim(
        id="T6",
        statement="They teach more than the mean image of every class does.",
        published="not stated",
        value=_above("means"),
        holds=lambda value: value > 0,
        tolerance="As T5.",
    ),
    Claim(
        id="T7",
        statement="The numbers of hyperparameters are those of the pixels: 7,840 for MNIST and 30,720 for CIFAR-10.",
        published="7,840 and 30,720 (section 3.6)",
        value=_pixels,
        holds=lambda value: value == [7_840, 30_720],
        tolerance="Exact counts.",
    ),
)

RECIPE = Recipe(
    name="hyper/distillation",
    title="One distilled image per class, and what a classifier learns from them",
    source="Lorraine 2024, figure 3.6; Lorraine, Vicol, Duvenaud 2020, figure 5",
    scales={
        "smoke": Protocol((Run("digits", FOLLOWED, 200, 20, num_rivals=2),), retrain_steps=50),
        "laptop": Protocol(
            (
                Run("mnist", PUBLISHED, 2_000, 3_000, 2),
                Run("mnist", FOLLOWED, 2_000, 1_500, 2),
                Run("cifar10", PUBLISHED, 300, 3_000, 2),
                Run("cifar10", FOLLOWED, 300, 1_500, 2),
            )
        ),
        "paper": Protocol(
            tuple(
                Run(dataset, pace, num_valid, 10_000, 4)
                for dataset, num_valid in (("mnist", 50_000), ("cifar10", 300))
                for pace in (PUBLISHED, FOLLOWED)
            )
        ),
    },
    run=run,
    claims=CLAIMS,
    notes=(
        "CIFAR-100, the third data set of the figure, is left out. At laptop scale 2,000 validation images of MNIST "
        "and 300 of CIFAR-10, 2 seeds, which draw the validation images and the weights, and 3,000 outer steps at the "
        "published pace. The labels are fixed, one image per class. Test data are the official test sets and were "
        "used for nothing else. The picture shows sigmoid(5 x), as published.\n\n"
        "At the published pace (5 steps of Adam at 1e-4 to one step of RMSprop at 1e-2) a pixel moves twenty times as "
        "far as a weight, so the weights never come near the optimum that the images define: the images steer the "
        "weights to where the validation loss is low, by what they are one after the other, and what the last of them "
        "teach is little. With 20 steps of Adam at 1e-2 to one of RMSprop at 1e-3 the weights keep up, and training "
        "anew gives what the weights along had. This pace was chosen by 600 steps on MNIST and CIFAR-10 with another "
        "seed, judged by training images that were left out. The problem is strongly convex in the weights, so weights "
        "at the optimum would be the same, along or anew."
    ),
)
