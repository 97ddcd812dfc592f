"""What optimizes: the interface of every optimizer, and the step that it makes with a problem."""

import abc
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ._problem import AbstractProblem, Players, Sample
from ._rollout import AbstractStep

State = TypeVar("State")


class StepInfo(eqx.Module):
    """What one optimizer step tells its reader.

    - `losses`: every player's loss at the players *before* the step, on the step's first sample.
    - `num_gradients`: how many joint gradients were evaluated. Methods are compared at equal cost, not equal steps.
    - `num_losses`: how many further loss evaluations (without gradient) were made.
    - `aux`: anything else that the optimizer reports, such as a guard's decision. `None` for most.
    """

    losses: Float[Array, "players"]
    num_gradients: Int[Array, ""] = eqx.field(converter=jnp.asarray, default=1)
    num_losses: Int[Array, ""] = eqx.field(converter=jnp.asarray, default=0)
    aux: PyTree = None


class AbstractOptimizer(eqx.Module):
    """An optimizer sees the problem, not a gradient: extragradient, LOLA or a guard evaluate it several times per step.

    Hyperparameters that may be learned, swept or differentiated are array leaves: a sweep is a `vmap` over them and a
    new value does not retrace.
    """

    @property
    def samples_per_step(self) -> int:
        """How many samples of the problem one step consumes."""
        return 1

    @property
    def updates_per_step(self) -> int:
        """How many updates of the players one step makes. `solve` counts updates."""
        return 1

    @abc.abstractmethod
    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> PyTree:
        """The optimizer's state at the start of a run."""

    @abc.abstractmethod
    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        """One step. The leaves of `samples` have a leading axis of length `samples_per_step`."""


class OptimizerStep(AbstractStep):
    """Problem and optimizer as a step for `rollout`: the carry is `(players, state)`, `x` the samples of one step."""

    problem: AbstractProblem
    optimizer: AbstractOptimizer

    def __call__(self, carry: tuple[Players, PyTree], x: Sample) -> tuple[tuple[Players, PyTree], StepInfo]:
        players, state, info = self.optimizer.step(self.problem, *carry, x)
        return (players, state), info

    def iterate(self, carry: tuple[Players, PyTree]) -> Players:
        return carry[0]
