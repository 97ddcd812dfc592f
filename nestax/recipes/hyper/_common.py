"""What the recipes on nested problems share: small data sets, fresh trainings, spreads, lines over steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.figure
import numpy as np
from jaxtyping import PyTree

from ... import data, optimizers, problems
from ..._nested import InnerProblem
from ..._optimizer import AbstractOptimizer
from ..._solve import solve
from ..._storage import save_figure


def load(name: str, split: str) -> data.Dataset:
    """A data set by name. The digits have no test set of their own: their last 397 are taken for it."""
    if name == "digits":
        train, test = data.digits().split(1_400)
        return train if split == "train" else test
    return {"mnist": data.mnist, "cifar10": data.cifar10}[name](split)


def draw(dataset: data.Dataset, sizes: Sequence[int], seed: int) -> list[data.Dataset]:
    """Disjoint random subsets of `dataset`, of the given sizes."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    stops = np.cumsum(sizes)
    return [dataset.take(order[stop - size : stop]) for size, stop in zip(sizes, stops)]


def joined(first: data.Dataset, second: data.Dataset) -> data.Dataset:
    """Both data sets as one."""
    inputs, labels = (np.concatenate(pair) for pair in ((first.images, second.images), (first.labels, second.labels)))
    return data.Dataset(inputs, labels, first.name, first.num_classes)


def retrained(
    problem: problems.NestedClassifier,
    hyperparameters: PyTree,
    optimizer: AbstractOptimizer,
    num_steps: int,
    seed: int,
) -> PyTree:
    """New weights, trained from their start under fixed hyperparameters."""
    inner = InnerProblem(problem, hyperparameters)
    key = jax.random.fold_in(jax.random.key(seed), 7)
    return solve(inner, optimizer, num_steps=num_steps, key=key).players[0]


def rmsprop(learning_rate: float) -> AbstractOptimizer:
    """RMSprop as in PyTorch, whose defaults the published code takes: decay 0.99, 1e-8 outside of the root.

    Inside of the root that is about 1e-16. The usual 1e-8 inside would leave gradients below 1e-4 unnormalized, and
    those with respect to millions of hyperparameters are far below.
    """
    return optimizers.rmsprop(learning_rate, decay=0.99, eps=1e-16)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and range as text."""
    low, high = min(values), max(values)
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f}" if len(values) == 1 else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def plot_lines(
    panels: Mapping[str, Mapping[str, tuple[Sequence[int | float], Sequence[int | float]]]],
    path: Path,
    labels: tuple[str, str],
) -> None:
    """One panel per entry, one line per entry of that: `{panel: {line: (x, y)}}`."""
    figure = matplotlib.figure.Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, lines) in zip(axes, panels.items()):
        for i, (name, (x, y)) in enumerate(lines.items()):
            ax.plot(x, y, label=name, linewidth=1.2, color=f"C{i // 2}", linestyle=("-", "--")[i % 2])
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        ax.grid(True, alpha=0.3)
        ax.legend(fontsize=7)
    save_figure(path, figure)


def rounded(value: Any, digits: int = 5) -> float:
    """A number for a record: so many significant digits."""
    return float(f"{float(value):.{digits}g}")
