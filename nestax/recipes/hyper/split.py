"""How much data to keep for validation, with one tuned decay and with one per weight."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ... import hyper, hyperparameters, networks, optimizers, problems
from ..._progress import progress_bar
from .._cache import cached
from .._recipe import Claim, Metrics, Recipe
from ._common import draw, joined, load, plot_lines, retrained, rmsprop, rounded, spread

FAMILIES = {"global": "all", "per weight": "weight"}


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


def measure(protocol: Protocol, size: int, proportion: float, family: str, seed: int) -> dict[str, float]:
    """Test accuracies of the weights that were trained along, and of new ones trained on all examples."""
    num_valid = round(size * proportion)
    test = load(protocol.data, "test")
    test = test.take(slice(min(protocol.num_test, len(test))))
    optimizer = optimizers.nesterov(protocol.learning_rate)  # momentum 0.9, as in the published code
    decay = hyperparameters.WeightDecay(FAMILIES[family], protocol.initial)
    linear = networks.MLP((), init_scale=None)
    if not num_valid:  # nothing to tune with: no decay at all
        (train,) = draw(load(protocol.data, "train"), (size,), seed)
        problem = problems.NestedClassifier(train, train, linear, decay)
        values = jax.tree.map(lambda x: x - np.inf, problem.init(jax.random.key(seed))[0])
        weights = retrained(problem, values, optimizer, protocol.num_steps, seed)
        accuracy = rounded(problem.accuracy(weights, test))
        return {"along": accuracy, "anew": accuracy}
    train, valid = draw(load(protocol.data, "train"), (size - num_valid, num_valid), seed)
    problem = problems.NestedClassifier(train, valid, linear, decay)
    tuning = hyper.tune(
        problem,
        optimizer=optimizer,
        outer_optimizer=rmsprop(protocol.outer_learning_rate),
        method=hyper.Implicit(hyper.Identity(protocol.learning_rate), residual=False),
        num_outer_steps=protocol.num_steps,
        num_inner_steps=1,
        key=jax.random.key(seed),
        record_every=protocol.num_steps,
    )
    values, weights = tuning.players
    everything = joined(train, valid)
    whole = problems.NestedClassifier(everything, everything, linear, decay)
    anew = retrained(whole, values, optimizer, protocol.num_steps, seed)
    return {"along": rounded(problem.accuracy(weights, test)), "anew": rounded(whole.accuracy(anew, test))}


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """All seeds of one setting are kept in one file of `rows/`."""
    cells = [(size, p, family) for size in protocol.sizes for p in protocol.proportions for family in FAMILIES]
    shared = {**dataclasses.asdict(protocol), "seed": seed}
    shared = {**shared, "sizes": None, "proportions": None}
    accuracies: dict[str, Any] = {str(size): {family: {} for family in FAMILIES} for size in protocol.sizes}
    with progress_bar(len(cells), "settings", progress) as report:
        for i, (size, p, family) in enumerate(cells):
            report(i, lambda size=size, p=p, family=family: f"{size} examples, {p:g} for validation, {family}")
            path = folder / "rows" / str(size) / f"{family.replace(' ', '-')}-{p:g}.json"

            def compute(size=size, p=p, family=family):
                runs = [measure(protocol, size, p, family, 100 * seed + s) for s in range(protocol.num_seeds)]
                return {kind: [r[kind] for r in runs] for kind in ("along", "anew")}

            accuracies[str(size)][family][f"{p:g}"] = cached(path, {**shared, "cell": [size, p, family]}, compute)
    _plot(accuracies, folder / "split.png")
    return {"accuracies": accuracies, "tables": [_table(size, rows) for size, rows in accuracies.items()]}


def _plot(accuracies: dict[str, Any], path: Path) -> None:
    panels = {
        f"{size} examples": {
            f"{family}, {'trained anew' if kind == 'anew' else 'as it is'}": (
                [float(p) for p in rows[family]],
                [float(np.mean(result[kind])) for result in rows[family].values()],
            )
            for kind in ("anew", "along")
            for family in FAMILIES
        }
        for size, rows in accuracies.items()
    }
    plot_lines(panels, path, ("proportion for validation", "test accuracy"))


def _table(size: str, rows: dict[str, Any]) -> dict[str, str]:
    proportions = list(rows["global"])
    lines = ["| decay, weights | " + " | ".join(proportions) + " |", "|---|" + "---|" * len(proportions)]
    for family in FAMILIES:
        for kind, name in (("along", "as they are"), ("anew", "trained anew")):
            cells = [spread(rows[family][p][kind]) for p in proportions]
            lines.append(f"| {family}, {name} | {' | '.join(cells)} |")
    return {
        "title": f"{size} examples: test accuracy by proportion kept for validation, mean over seeds [min, max]",
        "markdown": "\n".join(lines) + "\n",
    }


def best(metrics: Metrics, family: str, kind: str) -> list[float]:
    """Per size, the proportion (other than zero) with the highest mean test accuracy."""
    out = []
    for rows in metrics["accuracies"].values():
        means = {float(p): float(np.mean(result[kind])) for p, result in rows[family].items() if float(p) > 0}
        out.append(max(means, key=lambda p: means[p]))
    return out


def _gain(metrics: Metrics, family: str) -> list[float]:
    """Per size, what training anew adds to the mean test accuracy at half of the data for validation."""
    half = [rows[family]["0.5"] for rows in metrics["accuracies"].values()]
    return [rounded(np.mean(cell["anew"]) - np.mean(cell["along"]), 3) for cell in half]


CLAIMS = (
    Claim(
        id="V1",
        statement="With one decay for all weights the best proportion is small, about 10%, also without training anew.",
        published="about 10% with and without training anew (figure 3.9)",
        value=lambda metrics: {kind: best(metrics, "global", kind) for kind in ("along", "anew")},
        holds=lambda value: max(value["along"] + value["anew"]) <= 0.25,
        tolerance="Value: the best proportion at each size; at most 0.25, the neighbour of 0.1 on the grid.",
    ),
    Claim(
        id="V2",
        statement="With one decay per weight and training anew the best proportion is larger than with a single decay.",
        published="larger (figure 3.9)",
        value=lambda metrics: [
            many - one for many, one in zip(best(metrics, "per weight", "anew"), best(metrics, "global", "anew"))
        ],
        holds=lambda value: min(value) >= 0 and max(value) > 0,
        tolerance="Value: difference of the best proportions at each size; never negative, and positive somewhere.",
    ),
    Claim(
        id="V3",
        statement="With one decay per weight training anew pays, once half of the data are kept for validation.",
        published="training anew is needed (figure 3.9)",
        value=lambda metrics: _gain(metrics, "per weight"),
        holds=lambda value: min(value) > 0,
        tolerance="Value: gain in mean test accuracy at proportion 0.5, per size; above 0.",
    ),
    Claim(
        id="V4",
        statement="It pays more with one decay per weight than with a single one.",
        published="only the former needs it (figure 3.9)",
        value=lambda metrics: [
            rounded(many - one, 3) for many, one in zip(_gain(metrics, "per weight"), _gain(metrics, "global"))
        ],
        holds=lambda value: min(value) > 0,
        tolerance="Value: difference of the gains of V3, per size; above 0.",
    ),
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
    run=run,
    claims=CLAIMS,
    notes=(
        "Logistic regression on MNIST; at laptop scale two of the three published sizes and 3 seeds instead of 4. At "
        "proportion 0 there is no decay and no tuning. Seeds draw the examples and the weights; both families see the "
        "same ones. The hypergradient takes the identity times the learning rate for the inverse Hessian, as in the "
        "published code, and the weights take one step between two of the decays. Differences between neighbouring "
        "proportions are often below the spread over seeds, so the best proportions of V1 and V2 are uncertain by one "
        "place of the grid."
    ),
)
