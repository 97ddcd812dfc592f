"""A long run, looked at on the way."""

from collections.abc import Iterator

import jax
from jaxtyping import PRNGKeyArray

from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem
from .._rollout import RESULTS
from .._solve import Solution, solve


def checkpoints(
    problem: AbstractProblem, optimizer: AbstractOptimizer, num_steps: int, num: int, key: PRNGKeyArray
) -> Iterator[Solution]:
    """The solution after each of `num` equal parts of a run of `num_steps` updates; a failed one is the last."""
    size = num_steps // num
    players, state = None, None
    for i in range(num):
        solution = solve(
            problem,
            optimizer,
            num_steps=size,
            key=jax.random.fold_in(key, i),
            players=players,
            state=state,
            record_every=size,
            throw=False,
        )
        yield solution
        if solution.result != RESULTS.successful:
            return
        players, state = solution.players, solution.state
