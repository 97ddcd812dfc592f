"""The step that an optimizer makes with a problem."""

import equinox as eqx
from jaxtyping import PyTree

from ._optax import as_optimizer
from ._optimizer import AbstractOptimizer, StepInfo
from ._problem import AbstractProblem, Players, Sample
from ._rollout import AbstractStep


class OptimizerStep(AbstractStep):
    """Problem and optimizer as a step for `rollout`: the carry is `(players, state)`, `x` the samples of one step.

    **Arguments:** `problem`; `optimizer`: an optimizer, or a finished Optax transformation.
    """

    problem: AbstractProblem
    optimizer: AbstractOptimizer = eqx.field(converter=as_optimizer)

    def __call__(self, carry: tuple[Players, PyTree], x: Sample) -> tuple[tuple[Players, PyTree], StepInfo]:
        players, state, info = self.optimizer.step(self.problem, *carry, x)
        return (players, state), info

    def iterate(self, carry: tuple[Players, PyTree]) -> Players:
        return carry[0]
