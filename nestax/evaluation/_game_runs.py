"""Runs on many games from many starts at once: distances to the saddle set, gradient norms and costs along the way."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._optax import AnyOptimizer, as_optimizer
from .._optimizer import StepInfo
from .._problem import AbstractProblem
from ..measures import GradientNorm, Magnitude, trajectory


class _Measures(eqx.Module):
    """What is measured of an iterate."""

    distances: Float[Array, "*batch 2"]
    gradient_norms: Float[Array, "*batch"]
    magnitudes: Float[Array, "*batch"]


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


@eqx.filter_jit
def _trajectories(problems, optimizer, keys, num_steps):
    def one(problem, key):
        run = trajectory(problem, optimizer, num_steps=num_steps, key=key)
        return run.players, run.samples, run.info

    return eqx.filter_vmap(lambda problem, keys: jax.vmap(lambda key: one(problem, key))(keys))(problems, keys)


@eqx.filter_jit
def _measure(problems, players, samples):
    def at(problem, players, sample):
        measures = (measure(problem, players, sample) for measure in (GradientNorm(), Magnitude()))
        return _Measures(jnp.stack(problem.distances(players)), *measures)

    def along(problem, players, samples):
        return jax.vmap(jax.vmap(lambda p, s: at(problem, p, s)))(players, samples)

    return eqx.filter_vmap(along)(problems, players, samples)


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
    players, samples, info = _trajectories(problems, as_optimizer(optimizer), keys, num_steps)
    with jax.enable_x64(True):
        measures = _measure(*jax.tree.map(_as_float64, (problems, players, samples)))
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
