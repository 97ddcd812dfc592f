"""Optimizers that change the joint gradient, and hand it to a gradient optimizer."""

import abc
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import nonnegative
from .._optax import as_gradient_optimizer
from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer, Cost, StepInfo, apply_updates
from .._problem import AbstractProblem, Players, Sample
from ._presets import sgd


def as_base(optimizer: Any) -> AbstractGradientOptimizer:
    """A learning rate is gradient descent with it; a gradient optimizer or an Optax transformation is itself."""
    if isinstance(optimizer, int | float | np.number) or eqx.is_array(optimizer):
        return sgd(nonnegative(optimizer, "optimizer"))
    return as_gradient_optimizer(optimizer)


class AbstractAdjustedGradient(AbstractOptimizer):
    r"""A step of `optimizer` along an adjusted joint gradient $\tilde g(\theta)$.

    With a learning rate in its place: $\theta \leftarrow \theta - \alpha\, \tilde g(\theta)$. A subclass says what the
    adjustment is. In `StepInfo.cost.gradients` a product with the game Jacobian counts two.
    """

    optimizer: eqx.AbstractVar[AbstractGradientOptimizer]

    @abc.abstractmethod
    def adjusted_gradient(
        self, problem: AbstractProblem, players: Players, sample: Sample
    ) -> tuple[Float[Array, " players"], Players, int | Int[Array, ""]]:
        """The losses, the adjusted joint gradient, and how many joint gradients it has cost."""

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> PyTree:
        del problem, key
        return self.optimizer.init_update(players)

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        losses, gradients, num_gradients = self.adjusted_gradient(problem, players, sample)
        updates, state = self.optimizer.update(gradients, state, players)
        return apply_updates(players, updates), state, StepInfo(losses, Cost(num_gradients))
