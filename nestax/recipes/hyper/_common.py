"""What the recipes on nested problems share: small data sets, fresh trainings, the published optimizer."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ... import data, hyper, networks, optimizers, problems
from ..._nested import InnerProblem
from ..._optax import AnyOptimizer
from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ..._solve import solve
from .. import Trial

IDENTITY = hyper.Implicit(hyper.Identity(), residual=False)
"""The identity for the inverse Hessian, as in the published code."""

ANY_GROWTH = 1e30  # of a Neumann series that is summed up however it grows: the square is infinite in float32
REGRESSIONS = {"boston": data.boston_housing, "diabetes": data.diabetes}


def regression(name: str, seed: int, *, standardize: bool = True, broadcast: bool = False) -> problems.NestedRegression:
    """The problem on a random split: 10 % test, of the rest 10 % validation.

    `standardize`: scale by the training data's moments. `broadcast`: subtract all targets from every prediction, as the
    published code does; up to a constant that is the loss with every target at its mean.
    """
    full = REGRESSIONS[name]()
    rest = np.random.default_rng(seed).permutation(len(full))[len(full) // 10 :]
    valid, train = full.take(rest[: len(rest) // 10]), full.take(rest[len(rest) // 10 :])
    if standardize:
        valid, train = valid.standardized(train), train.standardized()
    if broadcast:
        means = (jnp.full_like(one.targets, np.asarray(one.targets, np.float64).mean()) for one in (train, valid))
        train, valid = (data.Regression(one.inputs, mean, name) for one, mean in zip((train, valid), means))
    return problems.NestedRegression(train, valid)


def load(name: str, split: str, num: int | None = None) -> data.Dataset:
    """A data set by name, or its first `num` examples. The digits have no test set: their last 397 are taken for it."""
    if name == "digits":
        found = data.digits().split(1_400)[split == "test"]
    else:
        found = {"mnist": data.mnist, "fashion_mnist": data.fashion_mnist, "cifar10": data.cifar10}[name](split)
    return found if num is None else found.take(slice(min(num, len(found))))


def draw(dataset: data.Dataset, sizes: Sequence[int], seed: int) -> list[data.Dataset]:
    """Disjoint random subsets of `dataset`, of the given sizes."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    stops = np.cumsum(sizes)
    return [dataset.take(order[stop - size : stop]) for size, stop in zip(sizes, stops)]


def retrained(
    problem: problems.NestedClassifier, hyperparameters: PyTree, optimizer: AbstractOptimizer, num_steps: int, seed: int
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
    **how: Any,
) -> hyper.Tuning:
    """`hyper.tune` with the outer and the inner optimizer, outer steps and inner steps for each, and equal `parts`."""
    (outer, inner), (num_outer, num_inner) = optimizers, steps
    how |= {"num_outer_steps": num_outer, "num_inner_steps": num_inner, "record_every": num_outer // parts}
    return hyper.tune(problem, optimizer=inner, outer_optimizer=outer, method=method, key=trial.key, **how)


def logistic_regression() -> networks.MLP:
    """A linear network with PyTorch's initial weights."""
    return networks.MLP((), init_scale=None)
