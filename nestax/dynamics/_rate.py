"""The local linear rate of an optimizer at a fixed point, read from the Jacobian of its step."""

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._gradients import joint_gradient
from .._optax import AnyOptimizer, as_optimizer
from .._problem import AbstractProblem, Players, Sample, check_players, check_sample
from .._rollout import AbstractStep, rollout
from .._step import OptimizerStep, check_state
from ._coordinates import ravel_real
from ._operators import step_jacobian
from ._spectrum import Spectrum, spectrum

_SETTLE = 100  # steps at the point, so that buffers hold what they hold there


@dataclasses.dataclass(frozen=True)
class PredictedRate:
    """The result of `predicted_rate`.

    - `rate`: the factor by which the distance to the fixed point shrinks per step, in the long run. Above 1 it grows;
      NaN where the step is not differentiable.
    - `num_gradients`: joint gradients per step, as the optimizer counts them.
    - `num_unit_eigenvalues`: how many eigenvalues were left out because they are 1.
    - `gradient_norm`: Euclidean length of the joint gradient at the players: how stationary the point is.
    - `spectrum`: the eigenvalues of the Jacobian of the step, those left out included.
    """

    rate: float
    num_gradients: int
    num_unit_eigenvalues: int
    gradient_norm: float
    spectrum: Spectrum

    @property
    def rate_per_gradient(self) -> float:
        """The rate per joint gradient: comparable between methods."""
        return self.rate ** (1 / self.num_gradients)

    def num_steps(self, tolerance: float) -> float:
        """The number of steps that shrink the distance to the fixed point by the factor `tolerance`; inf if none do."""
        return math.log(tolerance) / math.log(self.rate) if 0 < self.rate < 1 else (math.inf if self.rate else 1.0)


def predicted_rate(
    problem: AbstractProblem,
    optimizer: AnyOptimizer,
    players: Players,
    sample: Sample = None,
    *,
    state: PyTree | None = None,
    num: int | None = None,
    tolerance: float = 1e-4,
) -> PredictedRate:
    r"""The local linear rate of any optimizer at a fixed point: the spectral radius of the Jacobian of its step.

    The step is a map of the players *and* the optimizer's state. Near a fixed point it is nearly linear, and
    the distance to it shrinks in the long run by $\rho = \max \lvert \lambda \rvert$ per step, over its eigenvalues
    $\lambda$, times a polynomial where eigenvectors coincide. Two kinds of eigenvalues are left out:

    - those whose eigenvector has no component in the players: a part of the state that moves no player, such as a
      running mean of squared gradients;
    - those equal to 1, up to rounding: directions in which there are more fixed points, as where a network is scaled
      without effect, or where convergence is slower than linear, as at the minimum of $x^4$. First-order
      information cannot tell the two. `num_unit_eigenvalues` says how many there are; if nothing else is left the rate
      is 1.

    **Arguments:**

    - `problem`, `optimizer`: what is solved, and how.
    - `players`: the fixed point.
    - `sample`: one sample of the problem, used wherever the optimizer asks for one. Default `None`, for deterministic
      problems. With noise the rate is that of the problem with this one sample.
    - `state`: the optimizer's state there. Default `None`: what its initial state becomes in 100 steps with the players
      held fixed. That is the state at the fixed point for all methods with buffers of gradients.
    - `num`: find this many eigenvalues of largest modulus by Arnoldi's method, for large problems. Default `None`: all.
      If they are all left out, the rate is NaN; ask for more.
    - `tolerance`: the largest joint gradient, and the largest move in one step (Euclidean lengths), that pass for a
      fixed point. Default $10^{-4}$.

    **Returns** a `PredictedRate`.

    **Warns** if the joint gradient does not vanish, or if the step moves the players, and by how far: the number is
    then the growth of small differences in one step.

    **Raises** `ValueError` for a stochastic problem without `sample`.

    **Limits:** an optimizer that divides by the size of past gradients has no linear rate at a fixed point with zero
    gradients: Adam's step is not differentiable there and the rate is NaN. Pass the `state` and `players` of a run
    instead to see how it acts on differences there. Step sizes that decay with a counter are taken as they are after
    the 100 steps.

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.Quadratic(jnp.array([1.0, 4.0]))
    >>> out = nx.dynamics.predicted_rate(problem, nx.optimizers.sgd(0.4), (problem.minimizer,))
    >>> print(f"{out.rate:.2f}, and {out.num_steps(1e-6):.0f} steps for six digits")
    0.60, and 27 steps for six digits

    ```
    """
    players = check_players(players)
    check_sample(problem, sample)
    optimizer = as_optimizer(optimizer)
    step = OptimizerStep(problem, optimizer)
    x = jax.tree.map(lambda s: jnp.broadcast_to(s, (optimizer.samples_per_step, *jnp.shape(s))), sample)
    norm = float(jnp.linalg.norm(ravel_real(joint_gradient(problem, players, sample)[1])[0]))
    if not norm <= tolerance:
        warnings.warn(
            f"The joint gradient has length {norm:.3g} at these players, more than tolerance={tolerance:.3g}: this is "
            "no fixed point, and the rate says nothing about convergence. Solve the problem further first.",
            stacklevel=2,
        )
    if state is not None:
        check_state(state, problem, optimizer, players, jax.random.key(0))
    else:
        start = (players, optimizer.init(problem, players, jax.random.key(0)))
        state = rollout(_Held(step, x), start, None, num_steps=_SETTLE, throw=False).carry[1]
    operator = step_jacobian(step, (players, state), x)
    found = spectrum(operator, num)
    (ahead, _), info = step((players, state), x)
    moved = float(jnp.linalg.norm(ravel_real(jax.tree.map(jnp.subtract, ahead, players))[0]))
    if norm <= tolerance < moved:
        warnings.warn(
            f"{type(optimizer).__name__} does not stand still at these players: its step moves them by {moved:.3g}, "
            f"more than tolerance={tolerance:.3g}. A fixed point of the game is none of this method, and the rate says "
            "nothing about convergence. Solve the problem with it first, and pass where it ends.",
            stacklevel=2,
        )
    rounding = 30 * float(jnp.finfo(operator.dtype).eps) * math.sqrt(operator.size)
    rate, num_unit_eigenvalues = _reduce(found, rounding)
    return PredictedRate(rate, int(info.cost.gradients), num_unit_eigenvalues, norm, found)


class _Held(AbstractStep):
    """A step of an optimizer that moves its state only."""

    step: OptimizerStep
    x: PyTree

    def __call__(self, carry, x):
        (_, state), _ = self.step(carry, self.x)
        return (carry[0], state), None


def _reduce(found: Spectrum, rounding: float) -> tuple[float, int]:
    """The largest modulus of the eigenvalues that count, and how many are 1."""
    if not np.all(np.isfinite(found.eigenvalues)):
        return math.nan, 0
    seen = found.player_components() > 1e-8
    neutral = seen & (np.abs(found.eigenvalues - 1) < rounding)
    counted = np.abs(found.eigenvalues[seen & ~neutral])
    all_neutral = len(found.eigenvalues) == len(found.eigenvectors) and bool(np.any(neutral))
    return (float(np.max(counted)) if counted.size else 1.0 if all_neutral else math.nan), int(np.sum(neutral))
