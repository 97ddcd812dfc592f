"""Runs on many games from many starts at once: distances to the saddle set, gradient norms and costs along the way."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._family import AnyFamily, Instances, as_family, draw_runs
from .._optax import AnyOptimizer, as_optimizer
from .._optimizer import StepInfo
from .._problem import AbstractProblem
from ..measures import GradientNorm, Magnitude, trajectory
from ._tune import DRAWN


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
def _trajectories(family, optimizer, choices, keys, num_steps):
    def one(choice, key):
        run = trajectory(family.get(choice), optimizer, num_steps=num_steps, key=key)
        return run.players, run.samples, run.info

    return jax.vmap(one)(choices, keys)


@eqx.filter_jit
def _measure(family, choices, players, samples):
    def at(problem, players, sample):
        measures = (measure(problem, players, sample) for measure in (GradientNorm(), Magnitude()))
        return _Measures(jnp.stack(problem.distances(players)), *measures)

    def along(choice, players, samples):
        return jax.vmap(lambda p, s: at(family.get(choice), p, s))(players, samples)

    return jax.vmap(along)(choices, players, samples)


def run_games(
    problems: AnyFamily,
    optimizer: AnyOptimizer,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    num_problems: int | None = None,
    num_starts: int = 1,
) -> GameRuns:
    """Runs `optimizer` on every game of a family from `num_starts` random initial points, all in one compiled call.

    The runs have the precision of the games; what is measured is computed from the iterates in float64, since a
    distance to the nearest of many solutions means nothing in float32 once an iterate is large.

    **Arguments:**

    - `problems`: games that know their solutions (`distances`): a family, a function from a PRNG key to a game, or a
      batch, that is, one game whose array leaves have a leading axis, as `jax.vmap(Seesaw.random)(keys)` makes it.
    - `optimizer`: what to run.
    - `num_steps`: steps per run. All iterates are kept at a time, so this is for short runs of small games.
    - `key`: fixes the initial points: equal keys give all optimizers the same.
    - `num_problems`: how many games; default: all of a finite family, 32 of an endless one.
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
    family = problems if not isinstance(problems, AbstractProblem) else Instances(problems)
    family, optimizer = as_family(family), as_optimizer(optimizer)
    choices, keys, num = draw_runs(family, num_problems, num_starts, key, DRAWN)
    players, samples, info = _trajectories(family, optimizer, choices, keys, num_steps)
    with jax.enable_x64(True):
        wide = jax.tree.map(_as_float64, (family, choices, players, samples))
        measures = _measure(*wide)
    measures, info = jax.tree.map(lambda x: np.asarray(x).reshape(num, num_starts, *jnp.shape(x)[1:]), (measures, info))
    return GameRuns(
        measures.distances,
        measures.gradient_norms,
        measures.magnitudes,
        _cumulative(info.cost.gradients),
        _cumulative(info.cost.resolvents),
        info,
    )


def _as_float64(leaf: PyTree) -> PyTree:
    return jnp.asarray(np.asarray(leaf, np.float64)) if eqx.is_inexact_array(leaf) else leaf


def _cumulative(counts: Int[np.ndarray, "*batch steps"]) -> Int[np.ndarray, "*batch times"]:
    return np.concatenate([np.zeros_like(counts[..., :1]), np.cumsum(counts, axis=-1)], axis=-1, dtype=np.int64)
