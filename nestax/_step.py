"""The step that an optimizer makes with a problem."""

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from ._checks import describe
from ._optax import as_optimizer
from ._optimizer import AbstractOptimizer, StepInfo
from ._problem import AbstractProblem, Players, Sample
from ._rollout import AbstractStep
from ._tree import check_same_structure


class OptimizerStep(AbstractStep):
    """Problem and optimizer as a step for `rollout`: the carry is `(players, state)`, `x` the samples of one step.

    **Arguments:** `problem`; `optimizer`: an optimizer, or a finished Optax transformation.
    """

    problem: AbstractProblem
    optimizer: AbstractOptimizer = eqx.field(converter=as_optimizer)

    def __call__(self, carry: tuple[Players, PyTree], x: Sample) -> tuple[tuple[Players, PyTree], StepInfo]:
        if not isinstance(carry, tuple) or len(carry) != 2:
            raise ValueError(
                f"The `carry` of an `OptimizerStep` must be `(players, state)`, such as `(players, optimizer.init("
                f"problem, players, key))`; got {describe(carry)}."
            )
        players, state, info = self.optimizer.step(self.problem, *carry, x)
        return (players, state), info

    def iterate(self, carry: tuple[Players, PyTree]) -> Players:
        return carry[0]


def check_state(
    state: PyTree, problem: AbstractProblem, optimizer: AbstractOptimizer, players: Players, key: PRNGKeyArray
) -> None:
    """Raises `ValueError` unless `state` has the structure, shapes and dtypes of `optimizer.init`."""
    fresh = eqx.filter_eval_shape(optimizer.init, problem, players, key)
    try:
        check_same_structure(eqx.filter(state, eqx.is_array), eqx.filter(fresh, _is_shape), "state")
    except ValueError as error:
        raise ValueError(f"This is no state of `{type(optimizer).__name__}` at these players: {error}") from None


def _is_shape(x: object) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)
