"""What the recipes on nested problems share: small data sets, fresh trainings, the published optimizer."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ... import data, hyper, networks, optimizers, problems
from ..._nested import InnerProblem
from ..._optax import AnyOptimizer
from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ..._solve import solve
from .._plots import lines
from .._recipe import Results, Trial

IDENTITY = hyper.Implicit(hyper.Identity(), residual=False)
"""The identity for the inverse Hessian, as in the published code."""


def load(name: str, split: str) -> data.Dataset:
    """A data set by name. The digits have no test set of their own: their last 397 are taken for it."""
    if name == "digits":
        train, test = data.digits().split(1_400)
        return train if split == "train" else test
    return {"mnist": data.mnist, "cifar10": data.cifar10}[name](split)


def load_test(name: str, num: int) -> data.Dataset:
    """The first `num` test examples, or all where there are fewer."""
    test = load(name, "test")
    return test.take(slice(min(num, len(test))))


def draw(dataset: data.Dataset, sizes: Sequence[int], seed: int) -> list[data.Dataset]:
    """Disjoint random subsets of `dataset`, of the given sizes."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    stops = np.cumsum(sizes)
    return [dataset.take(order[stop - size : stop]) for size, stop in zip(sizes, stops)]


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


def tuned(
    trial: Trial,
    problem: AbstractProblem,
    optimizers: tuple[AnyOptimizer, AnyOptimizer],
    steps: tuple[int, int],
    *,
    parts: int = 1,
    method: hyper.AbstractMethod = IDENTITY,
    **more: Any,
) -> hyper.Tuning:
    """`hyper.tune` with the outer and the inner optimizer, outer steps and inner steps for each, and equal `parts`."""
    how: dict[str, Any] = {"num_outer_steps": steps[0], "num_inner_steps": steps[1], "record_every": steps[0] // parts}
    outer, inner = optimizers
    return hyper.tune(problem, optimizer=inner, outer_optimizer=outer, method=method, key=trial.key, **how, **more)


def size(tree: PyTree) -> int:
    """The number of entries of all arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def logistic_regression() -> networks.MLP:
    """A linear network with PyTorch's initial weights."""
    return networks.MLP((), init_scale=None)


def histories(results: Results, *kinds: str) -> Any:
    """A figure of what trials recorded on the way, in their `history`: one panel per kind of number."""
    trials = [(f"{name} {s}", one["history"]) for name, seeds in results.items() for s, one in enumerate(seeds)]
    panels = {
        kind: {name: ([r["step"] for r in history], [r[kind] for r in history]) for name, history in trials}
        for kind in kinds
    }
    return lines(panels, ("outer step", ""))
