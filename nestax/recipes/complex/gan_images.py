"""A GAN on images, with complex momentum in the Adam of its discriminator alone."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ... import data, networks, optimizers, problems
from ..._problem import Players
from ..._progress import progress_bar
from ..._rollout import RESULTS
from ..._solve import solve
from ...evaluation import plot_images
from .._cache import cached
from .._checkpoints import checkpoints
from .._recipe import Metrics, Recipe
from ._gan import momentum_name
from ._gan_images_claims import CLAIMS, finals, peaks, statistics

MOMENTA = {momentum_name(*pair): pair for pair in ((0.0, 0.0), (0.8, 0.125), (0.8, 0.0))}
"""Modulus and phase (over π) of the discriminator's first decay rate: the rows of the published table."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the table is reproduced."""

    dataset: str  # "digits", embedded, 8×8; or "mnist-14", MNIST by blocks of 2×2
    width: int  # channels of the networks
    num_steps: int
    num_seeds: int
    checkpoints: int  # equally spaced; the best of them is a run's score
    num_images: int  # generated for a score
    learning_rate: float = 1e-3  # of both players
    loss: str = "hinge"  # as in BigGAN
    batch_size: int = 64
    classifier_steps: int = 1_000


class _Judge(eqx.Module):
    """A classifier that was trained on the same data, and what it makes of images."""

    classifier: problems.Classifier
    players: Players

    def __init__(self, dataset: data.Dataset, num_steps: int):
        self.classifier = problems.Classifier(dataset, networks.MLP((64,), "relu", init_scale=None))
        optimizer = optimizers.adam(1e-2)
        solution = solve(self.classifier, optimizer, num_steps=num_steps, key=jax.random.key(0), record_every=num_steps)
        self.players = solution.players

    def __call__(self, images: Float[Array, "num ..."], labels: Int[Array, " num"]) -> tuple[Array, Array]:
        """Inception score of images, and how often the classifier sees the label that each was made for."""
        logits = self.classifier.logits(self.players, images.reshape(images.shape[0], -1))
        right = jax.numpy.argmax(logits, axis=1).astype(labels.dtype) == labels
        return problems.inception_score(jax.nn.softmax(logits)), jax.numpy.mean(right)


@eqx.filter_jit
def _scores(
    judge: _Judge, problem: problems.ImageGAN, players: Players, key: PRNGKeyArray, num: int
) -> tuple[Array, Array]:
    return judge(*problem.generate(players, key, num))


def _dataset(name: str) -> data.Dataset:
    if name == "digits":
        return data.digits()
    if name == "mnist-14":
        return data.mnist("train").average_pool(2)
    raise ValueError(f"`dataset` must be 'digits' or 'mnist-14', got {name!r}.")


def _optimizer(protocol: Protocol, modulus: float, phase_over_pi: float) -> optimizers.Alternating:
    """Adam without momentum for the generator; for the discriminator with the given coefficient."""
    generator = optimizers.adam(protocol.learning_rate, b1=0.0)
    discriminator = optimizers.complex_adam(protocol.learning_rate, modulus, phase=float(np.pi * phase_over_pi))
    return optimizers.Alternating((generator, discriminator))


def _train(
    problem: problems.ImageGAN, protocol: Protocol, judge: _Judge, momentum: tuple[float, float], seed: int
) -> tuple[dict[str, list[float]], Players]:
    """Scores at the checkpoints, and the players at the end. A run that failed scores 1, the lowest there is."""
    optimizer = _optimizer(protocol, *momentum)
    key, score_key = jax.random.split(jax.random.key(seed))
    players = None
    scores: dict[str, list[float]] = {"score": [], "accuracy": []}
    for solution in checkpoints(problem, optimizer, protocol.num_steps, protocol.checkpoints, key):
        players = solution.players
        if solution.result != RESULTS.successful:
            break
        score, accuracy = (float(x) for x in _scores(judge, problem, players, score_key, protocol.num_images))
        scores["score"].append(round(score, 4))
        scores["accuracy"].append(round(accuracy, 4))
    for name, worst in (("score", 1.0), ("accuracy", 0.0)):  # from a failure on
        scores[name] += [worst] * (protocol.checkpoints - len(scores[name]))
    assert players is not None
    return scores, players


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Trains every seed with every coefficient; finished ones are kept in `rows/`."""
    dataset = _dataset(protocol.dataset)
    problem = problems.ImageGAN(dataset, protocol.loss, width=protocol.width, batch_size=protocol.batch_size)
    judge = _Judge(dataset, protocol.classifier_steps)
    labels = np.tile(np.arange(dataset.num_classes, dtype=np.int32), 2)
    setting = {**dataclasses.asdict(protocol), "num_seeds": None}
    runs: dict[str, dict[str, list[list[float]]]] = {name: {"score": [], "accuracy": []} for name in MOMENTA}
    pictures = []
    with progress_bar(len(MOMENTA) * protocol.num_seeds, "trainings", progress) as report:
        for i in range(protocol.num_seeds):
            for j, (name, momentum) in enumerate(MOMENTA.items()):

                def compute(number=1_000 * seed + i, momentum=momentum, first=i == 0) -> dict[str, Any]:
                    scores, players = _train(problem, protocol, judge, momentum, number)
                    if not first:
                        return dict(scores)
                    images, _ = problem.generate(
                        players, jax.random.key(number), len(labels), jax.numpy.asarray(labels)
                    )
                    return {**scores, "images": np.round(np.asarray(images, np.float64), 2).tolist()}

                path = folder / "rows" / f"{momentum[0]:g}-{momentum[1]:g}" / f"{i}.json"
                scores = cached(path, {**setting, "momentum": list(momentum), "seed": 1_000 * seed + i}, compute)
                for key in ("score", "accuracy"):
                    runs[name][key].append(scores[key])
                pictures += scores.get("images", [])
                report(i * len(MOMENTA) + j + 1, lambda name=name: name)
    score, accuracy = (round(float(x), 3) for x in judge(dataset.inputs, dataset.labels))
    title = "discriminator's momentum " + ", ".join(MOMENTA) + " (two rows each)"
    plot_images(np.asarray(pictures), folder / "comparison.png", dataset.num_classes, title)
    table = _table(runs, {"score": score, "accuracy": accuracy})
    return {"runs": runs, "data": {"score": score, "accuracy": accuracy}, "tables": [table]}


def _table(runs: dict[str, Any], of_data: dict[str, float]) -> dict[str, str]:
    lines = ["| momentum | max | mean | median | std | mean of final | accuracy |", "|---|---|---|---|---|---|---|"]
    for name, rows in runs.items():
        found = statistics(peaks(rows))
        accuracy = float(np.mean([values[-1] for values in rows["accuracy"]]))
        numbers = " | ".join(f"{found[key]:.3f}" for key in ("max", "mean", "median", "std"))
        lines.append(f"| {name} | {numbers} | {np.mean(finals(rows)):.3f} | {accuracy:.2f} |")
    lines.append(f"| data | | {of_data['score']:.3f} | | | | {of_data['accuracy']:.2f} |")
    return {
        "title": "Inception score over seeds, of every run the best checkpoint; mean of the final scores; how often "
        "the classifier sees the class that was asked for, at the end",
        "markdown": "\n".join(lines) + "\n",
    }


RECIPE = Recipe(
    name="complex/gan-images",
    title="A GAN on images, with complex momentum in its discriminator's Adam",
    source="Lorraine, Acuna, Vicol, Duvenaud 2022 (AISTATS), on BigGAN; table 4.1 of the thesis of Lorraine",
    scales={
        "smoke": Protocol(
            dataset="digits",
            width=2,
            num_steps=40,
            num_seeds=2,
            checkpoints=2,
            num_images=200,
            batch_size=16,
            classifier_steps=200,
        ),
        "laptop": Protocol(dataset="mnist-14", width=8, num_steps=8_000, num_seeds=5, checkpoints=8, num_images=2_000),
        "paper": Protocol(
            dataset="mnist-14", width=16, num_steps=50_000, num_seeds=10, checkpoints=25, num_images=10_000
        ),
    },
    run=run,
    claims=CLAIMS,
    notes="A stand-in: a small class-conditional convolutional GAN on MNIST at 14×14 "
    "instead of BigGAN on CIFAR-10, scored by a small classifier that was trained on the same data. Scores "
    "are not comparable with those of the source; only their order is asked for. As there, the generator "
    "keeps Adam without momentum, and the coefficient has no factor 1 - β1 and no bias correction: for a "
    "constant gradient the discriminator's steps are 1.6 times as long with 0.8 exp(πi/8) and 5 times with "
    "0.8.",
)
