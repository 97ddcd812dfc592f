"""Runs on many games from many starts at once: distances to the saddle set, gradient norms and costs along the way."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._family import AnyFamily, Instances, as_family, draw_runs
from .._mesh import Devices, fetch, replicate, resolve, spread_padded
from .._optax import AnyOptimizer, as_optimizer
from .._optimizer import StepInfo
from .._problem import AbstractProblem
from ..measures import (
    GradientNorm,
    Magnitude,
    cost_at,
    first_below,
    median_and_ninety,
    success_rates,
    tail,
    trajectory,
)
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

    def evaluations_to(self, tolerance: float) -> Float[np.ndarray, "instances starts"]:
        """Gradients and resolvents until the norm of the joint gradient, over that at the start, stays below the
        tolerance; `inf` for never."""
        times = first_below(self.gradient_norms / self.gradient_norms[..., :1], tolerance)
        return cost_at(self.num_gradients + self.num_resolvents, times)

    def summary(
        self, tolerances: Sequence[float] = (2e-2, 1e-4), *, part: float = 0.2, num_times: int = 60
    ) -> dict[str, Any]:
        """How far the runs come, how surely, and at what cost, over all instances and starts.

        **Arguments:**

        - `tolerances`: of the joint distance. Default: that of SR1, and one of convergence.
        - `part`: the share of a run that counts as its end. Default 0.2, as in `nestax.measures.success_rates`.
        - `num_times`: about how many times of the curve are returned, evenly spaced in the logarithm. Default 60.

        **Returns** a dictionary:

        - `times`, `geometric_mean`: the joint distance along the way;
        - `tail_mean`, `tail_median`, `tail_geometric_mean`: of the means of the joint distance over the end of a run;
        - `sr1`, `sr2`: both joint success rates in percent, `rate` and `interval`;
        - `diverged`: the share of runs that end farther off than they began, or not finite;
        - `accepted`: of a guard alone, the share of accepted proposals;
        - `reach`: by tolerance, the `share` of runs whose distance stays below it, and `iterations`, `gradients` and
            `resolvents` until then: median and 90th percentile, each `inf` where so many never get there.
        """
        joint = self.joint.reshape(-1, self.joint.shape[-1])
        times = np.unique(np.geomspace(1, joint.shape[1] - 1, num_times).round().astype(int))
        finite = np.where(np.isfinite(joint), joint, np.inf)
        end = tail(finite, part).mean(axis=1)
        success = success_rates(self.distances, self.magnitudes)
        with np.errstate(divide="ignore", over="ignore"):
            geometric = np.exp(np.log(np.maximum(finite[:, times], 1e-300)).mean(axis=0))
        rates = {"sr1": success.accuracy_rate["joint"], "sr2": success.stability_rate["joint"]}
        out: dict[str, Any] = {
            "times": times,
            "geometric_mean": geometric,
            "tail_mean": end.mean(),
            "tail_median": np.median(end),
            "tail_geometric_mean": np.exp(np.log(np.maximum(end, 1e-300)).mean()),
            **{
                n: {"rate": 100 * r.rate, "interval": [round(100 * x, 2) for x in r.interval]} for n, r in rates.items()
            },
            "diverged": np.mean(~(finite[:, -1] <= finite[:, 0])),
            "reach": {},
        }
        if self.info.aux is not None and hasattr(self.info.aux, "accepted"):
            out["accepted"] = np.nanmean(np.asarray(self.info.aux.accepted))
        for tolerance in tolerances:
            reached = first_below(self.joint, tolerance)
            out["reach"][f"{tolerance:g}"] = {
                "share": np.mean(np.isfinite(reached)),
                "iterations": median_and_ninety(reached),
                "gradients": median_and_ninety(cost_at(self.num_gradients, reached)),
                "resolvents": median_and_ninety(cost_at(self.num_resolvents, reached)),
            }
        return out


@eqx.filter_jit
def _trajectories(family, optimizer, choices, keys, num_steps, mesh):
    return spread_padded(mesh, Partial(_run_all, family, optimizer, num_steps), choices, keys)


def _run_all(family, optimizer, num_steps, choices, keys):
    def one(choice, key):
        run = trajectory(family.get(choice), optimizer, num_steps=num_steps, key=key)
        return run.players, run.samples, run.info

    return jax.vmap(one)(choices, keys)


@eqx.filter_jit
def _measure(family, choices, players, samples, mesh):
    return spread_padded(mesh, Partial(_measure_all, family), choices, players, samples)


def _measure_all(family, choices, players, samples):
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
    mesh: Devices = None,
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
    - `mesh`: which devices share the runs, as for `evaluate`.

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
    devices = resolve(mesh, keys.size)
    family, optimizer, choices, keys = replicate(devices, (family, optimizer, choices, keys))
    players, samples, info = _trajectories(family, optimizer, choices, keys, num_steps, devices)
    with jax.enable_x64(True):
        wide = jax.tree.map(_as_float64, (family, choices, players, samples))
        family, choices, players, samples = replicate(devices, wide)
        measures = _measure(family, choices, players, samples, devices)
    measures, info = jax.tree.map(lambda x: x.reshape(num, num_starts, *x.shape[1:]), fetch((measures, info)))
    return GameRuns(
        measures.distances,
        measures.gradient_norms,
        measures.magnitudes,
        _cumulative(info.cost.gradients),
        _cumulative(info.cost.resolvents),
        info,
    )


def _as_float64(leaf: PyTree) -> PyTree:
    return jnp.asarray(np.asarray(fetch(leaf), np.float64)) if eqx.is_inexact_array(leaf) else leaf


def _cumulative(counts: Int[np.ndarray, "*batch steps"]) -> Int[np.ndarray, "*batch times"]:
    return np.concatenate([np.zeros_like(counts[..., :1]), np.cumsum(counts, axis=-1)], axis=-1, dtype=np.int64)
