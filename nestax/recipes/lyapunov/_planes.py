"""Games of two scalars on a grid: where runs from each point end, and which cells lie on a boundary between basins."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem, Players
from ..._rollout import rollout
from ..._step import OptimizerStep
from ._restarts import Ends

NAMES = ("cooperate", "defect", "centre", "other")


def ends(problem: AbstractProblem, optimizer: AbstractOptimizer, starts: Players, num_steps: int) -> np.ndarray:
    """Where runs from stacked starts of two scalars end: shape `(runs, 2)`."""
    return np.asarray(_ends(problem, optimizer, starts, num_steps))


@eqx.filter_jit
def _ends(problem, optimizer, starts, num_steps):
    def one(players):
        carry = (players, optimizer.init(problem, players, jax.random.key(0)))
        step = Ends(OptimizerStep(problem, optimizer))
        out = rollout(step, carry, None, num_steps=num_steps, throw=False)
        return jnp.stack([x.reshape(()) for x in out.carry[0]])

    return jax.vmap(one)(starts)


def modes(points: np.ndarray) -> np.ndarray:
    """Which of `NAMES` an end of the small dilemma or of its mixture with matching pennies is, as an index."""
    x, y = points[:, 0], points[:, 1]
    out = np.full(len(points), 3)
    out[(np.abs(x) < 1) & (np.abs(y) < 1)] = 2
    out[(x > 2) & (y > 2)] = 0
    out[(x < -2) & (y < -2)] = 1
    return out


def boundary(grid: np.ndarray) -> np.ndarray:
    """Which cells of a square grid of labels have a neighbour (above, below, left, right) with another label."""
    out = np.zeros(grid.shape, bool)
    for axis in (0, 1):
        differ = np.diff(grid, axis=axis) != 0
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        out[tuple(first)] |= differ
        out[tuple(second)] |= differ
    return out


def ranked_above(values: np.ndarray, chosen: np.ndarray) -> float:
    """The chance that a chosen cell has a larger value than one not chosen (area under the curve); 1/2 says nothing."""
    a, b = values[chosen], values[~chosen]
    if not len(a) or not len(b):
        return float("nan")
    return float(np.mean(a[:, None] > b[None]) + np.mean(a[:, None] == b[None]) / 2)
