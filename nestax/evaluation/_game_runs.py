"""Runs on many games from many starts at once: distances to the saddle set, gradient norms and costs along the way."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._gradients import joint_gradient
from .._optax import AnyOptimizer, as_optimizer
from .._optimizer import StepInfo
from .._problem import AbstractProblem, Players
from .._rollout import Record, rollout
from .._solve import stack_samples, start
from .._step import OptimizerStep


def trajectory(
    problem: AbstractProblem, optimizer: AnyOptimizer, num_steps: int, key: PRNGKeyArray
) -> tuple[Players, StepInfo]:
    """All iterates of a run, leaves with a leading axis of length `num_steps + 1`, and its `StepInfo`s.

    In one piece, so for short runs of small problems. From a failure on, the iterates are NaN.
    """
    optimizer = as_optimizer(optimizer)
    players, state, sample_key = start(problem, optimizer, None, None, key)
    xs = stack_samples(problem, sample_key, num_steps, optimizer.samples_per_step)
    step = Record(OptimizerStep(problem, optimizer))
    info, after = rollout(step, (players, state), xs, num_steps=num_steps, throw=False).info
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), players, after), info


class Measures(eqx.Module):
    """What is measured of every iterate of a run."""

    distances: Float[Array, "*batch times 2"]
    gradient_norms: Float[Array, "*batch times"]
    magnitudes: Float[Array, "*batch times"]


def measure(problem: Any, iterates: Players) -> Measures:
    """Distances to the saddle set, norms of the joint gradient, and the largest absolute coordinates."""

    def norm(players: Players) -> Float[Array, ""]:
        gradients = jax.tree.leaves(joint_gradient(problem, players, None)[1])
        return jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(g**2) for g in gradients])))

    def largest(players: Players) -> Float[Array, ""]:
        return jnp.max(jnp.stack([jnp.max(jnp.abs(p)) for p in jax.tree.leaves(players)]))

    distances = jax.vmap(lambda players: jnp.stack(problem.distances(players)))(iterates)
    return Measures(distances, jax.vmap(norm)(iterates), jax.vmap(largest)(iterates))


@dataclasses.dataclass(frozen=True)
class GameRuns:
    """Runs of one optimizer, in float64. The axis `times` counts steps from 0, the initial point, on.

    - `distances`: of each player to the saddle set, shape `(instances, starts, times, 2)`.
    - `gradient_norms`: of the joint gradient.
    - `magnitudes`: the largest absolute coordinate.
    - `num_gradients`, `num_resolvents`: how many were evaluated up to then.
    - `info`: the `StepInfo`s, leaves of shape `(instances, starts, times - 1, ...)`.

    After a failure all floating-point entries are NaN.
    """

    distances: Float[np.ndarray, "instances starts times 2"]
    gradient_norms: Float[np.ndarray, "instances starts times"]
    magnitudes: Float[np.ndarray, "instances starts times"]
    num_gradients: Int[np.ndarray, "instances starts times"]
    num_resolvents: Int[np.ndarray, "instances starts times"]
    info: StepInfo

    @property
    def joint(self) -> Float[np.ndarray, "instances starts times"]:
        """The distance of both players together, $\\sqrt{d_x^2 + d_y^2}$."""
        with np.errstate(over="ignore", invalid="ignore"):  # of runs that diverge
            return np.linalg.norm(self.distances, axis=-1)


def first_below(values: Float[np.ndarray, "*batch times"], tolerance: float) -> Float[np.ndarray, "*batch"]:
    """The time from which the values stay below `tolerance` to the end; `inf` where there is none (NaN is above)."""
    above = ~(values < tolerance)
    last = values.shape[-1] - 1 - np.argmax(above[..., ::-1], axis=-1)
    return np.where(above[..., -1], np.inf, np.where(above.any(axis=-1), last + 1.0, 0.0))


def cost_at(costs: Int[np.ndarray, "*batch times"], times: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """The cumulative costs at these times, such as those of `first_below`; `inf` stays."""
    index = np.where(np.isfinite(times), times, 0).astype(int)
    found = np.take_along_axis(costs, index[..., None], axis=-1)[..., 0]
    return np.where(np.isfinite(times), found, np.inf)


@eqx.filter_jit
def _trajectories(problems, optimizer, keys, num_steps):
    def one(problem, key):
        return trajectory(problem, optimizer, num_steps, key)

    return eqx.filter_vmap(lambda problem, keys: jax.vmap(lambda key: one(problem, key))(keys))(problems, keys)


@eqx.filter_jit
def _measure(problems, iterates):
    return eqx.filter_vmap(lambda problem, x: jax.vmap(lambda x: measure(problem, x))(x))(problems, iterates)


def start_keys(key: PRNGKeyArray, num_instances: int, num_starts: int) -> Key[Array, "instances starts"]:
    """One key per instance and start."""
    return jax.random.split(key, (num_instances, num_starts))


def count_instances(problems: AbstractProblem) -> int:
    """The length of the leading axis of all array leaves; `ValueError` where there is none."""
    leaves = jax.tree.leaves(eqx.filter(problems, eqx.is_array))
    sizes = sorted({jnp.shape(x)[0] if jnp.ndim(x) else 0 for x in leaves})
    if len(sizes) != 1 or sizes[0] < 1:
        raise ValueError(
            "`problems` must be a batch of games: one problem whose array leaves have a leading axis of equal length, "
            f"as `jax.vmap(Seesaw.random)(keys)` makes it; got leading axes of the lengths {sizes} (0: none)."
        )
    return sizes[0]


def run_games(
    problems: AbstractProblem,
    optimizer: AnyOptimizer,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_starts: int = 1,
) -> GameRuns:
    """Runs `optimizer` on every game of a batch from `num_starts` random initial points, all in one compiled call.

    The runs have the precision of the games; what is measured is computed from the iterates in float64, since a
    distance to the nearest of many solutions means nothing in float32 once an iterate is large.

    **Arguments:**

    - `problems`: a batch of games that know their saddle sets (`AbstractSaddleProblem`): one problem whose array
      leaves have a leading axis, as `jax.vmap(Seesaw.random)(keys)` makes it.
    - `optimizer`: what to run.
    - `num_steps`: steps per run. All iterates are kept at a time, so this is for short runs of small games.
    - `key`: fixes the initial points: equal keys give all optimizers the same.
    - `num_starts`: initial points per game. Default 1.

    **Returns** a `GameRuns`.

    **Raises** `ValueError` for array leaves without a common leading axis.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> games = jax.vmap(nx.problems.RotatedSaddle.random)(jax.random.split(jax.random.key(0), 10))
    >>> optimizer = nx.optimizers.OptimisticGradient(0.1)
    >>> runs = nx.evaluation.run_games(games, optimizer, num_steps=100, key=jax.random.key(1), num_starts=2)
    >>> runs.distances.shape, bool((runs.joint[..., -1] < 1e-3).all())
    ((10, 2, 101, 2), True)

    ```
    """
    keys = start_keys(key, count_instances(problems), num_starts)
    iterates, info = _trajectories(problems, as_optimizer(optimizer), keys, num_steps)
    with jax.enable_x64(True):
        measures = _measure(*jax.tree.map(_as_float64, (problems, iterates)))
    arrays = jax.tree.map(np.asarray, (measures, info))
    return GameRuns(
        arrays[0].distances,
        arrays[0].gradient_norms,
        arrays[0].magnitudes,
        _cumulative(arrays[1].cost.gradients),
        _cumulative(arrays[1].cost.resolvents),
        arrays[1],
    )


def _as_float64(leaf: PyTree) -> PyTree:
    return jnp.asarray(np.asarray(leaf, np.float64)) if eqx.is_inexact_array(leaf) else leaf


def _cumulative(counts: Int[np.ndarray, "*batch steps"]) -> Int[np.ndarray, "*batch times"]:
    return np.concatenate([np.zeros_like(counts[..., :1]), np.cumsum(counts, axis=-1)], axis=-1, dtype=np.int64)
