"""Lyapunov exponents of finite trajectories, in the four definitions that the literature mixes up.

With the trajectory $w_{j+1} = F(w_j)$ of $k$ steps, $J_j = DF(w_j)$ and $\\Phi = J_{k-1} \\cdots J_0$, all are natural
logarithms per step, of lengths (not of squared ones).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import count
from .._optimizer import AbstractOptimizer, exact
from .._problem import AbstractProblem, Players, check_players
from .._rollout import AbstractCheckpoint, AbstractStep, Segments, count_steps, rollout
from .._solve import stack_samples
from .._step import OptimizerStep, check_state
from ._coordinates import check_carry, ravel_real
from ._singular import AbstractSingular, by_size, random_frame
from ._tangent import TangentStep


class LyapunovExponents(eqx.Module):
    """The result of `lyapunov_exponents` and `step_exponents`.

    - `exponents`: natural logarithms per step, the largest first (for `Benettin` in the order of the frame, which is
      that order in the long run).
    - `directions`: unit tangent vectors at the start, in columns: those that are stretched so much. For `Benettin` the
      frame at the end.
    - `num_steps`, `result`: how many steps stayed finite, and a `nestax.RESULTS`. Of a trajectory that diverged the
      exponents are those of its finite part.
    """

    exponents: Float[Array, " num"]
    directions: Float[Array, "dim num"]
    num_steps: Int[Array, ""]
    result: Any  # a RESULTS item


class AbstractExponents(eqx.Module):
    """A definition of the exponents of a finite trajectory."""

    @abc.abstractmethod
    def __call__(
        self, step: AbstractStep, carry: PyTree, xs: PyTree, num_steps: int, num: int, checkpoint: AbstractCheckpoint
    ) -> LyapunovExponents:
        """The `num` largest exponents of `num_steps` steps from `carry`."""

    @abc.abstractmethod
    def count_steps(self, num_steps: int, num: int, dim: int) -> int:
        """The cost in evaluations of the step; a product with its Jacobian or the transpose counts two."""


class FiniteTime(AbstractExponents):
    r"""$\frac1k \ln \sigma_i(\Phi)$: how much the best directions at the start are stretched in $k$ steps altogether.

    The finite-time exponents of the dynamics literature, and what pictures of separating trajectories show. Directions
    are propagated, forgotten is nothing; so for long trajectories, whose products overflow, take `Benettin`.

    **Arguments:**

    - `method`: how singular vectors are found. Default `None`: `DenseSVD` in up to 64 dimensions, else
      `PowerIteration()`.
    - `directions`: shape `(dim, num)`: measure $\frac1k \ln \lVert \Phi d \rVert$ of these unit vectors instead.
    """

    method: AbstractSingular | None = None
    directions: Float[Array, "dim num"] | None = None

    def __call__(self, step, carry, xs, num_steps, num, checkpoint):
        def final(step, carry, xs):
            flat, at = _flatten(carry)

            def function(flat):
                out = rollout(step, at(flat), xs, num_steps=num_steps, checkpoint=checkpoint, throw=False)
                return ravel_real(eqx.filter(out.carry, eqx.is_inexact_array))[0], (out.num_steps, out.result)

            return flat, function

        flat, function = final(*_constant((step, carry, xs)))
        directions = _directions(
            self, lambda v: _push(function, flat, v), lambda u: _pull(function, flat, u), flat, num
        )
        flat, function = final(step, carry, xs)
        _, (count, result) = function(flat)
        logs = _log_lengths(_push(function, flat, directions))
        return LyapunovExponents(logs / _per(count, logs), directions, count, result)

    def count_steps(self, num_steps, num, dim):
        return _count(self, num_steps, num, dim) + num_steps * (1 + 2 * num)


class AverageGrowth(AbstractExponents):
    r"""$\frac12 \ln \lambda_i \bigl( \frac1k \sum_j J_j^\top J_j \bigr)$: one direction against all steps, not
    propagated.

    The formula that Generalized Ridge Rider was published with, halved, since it is stated for squared lengths. It
    averages single steps, each as if the perturbation pointed in the same direction again. For one step it is
    `FiniteTime`; else neither bounds the other: with $J_0 = \operatorname{diag}(2, 1/2)$, $J_1 = J_0^{-1}$ nothing is
    stretched, but this is $\ln \sqrt{2.125}$.

    **Arguments:** `method` as of `FiniteTime`. `directions`: shape `(dim, num)`: measure the mean over the steps of
    $\ln \lVert J_j d \rVert$ for these unit vectors instead, which is never larger (Jensen).

    **Source:** J. Lorraine et al., *Lyapunov exponents for diversity in differentiable games*, AAMAS 2022.
    """

    method: AbstractSingular | None = None
    directions: Float[Array, "dim num"] | None = None

    def __call__(self, step, carry, xs, num_steps, num, checkpoint):
        def gram(parts, vectors):
            step, carry, xs = parts
            start = (carry, jnp.zeros_like(vectors))
            out = rollout(_GramStep(step, vectors), start, xs, num_steps=num_steps, throw=False)
            return out.carry[1] / _per(out.num_steps, vectors)

        fixed = _constant((step, carry, xs))
        flat, _ = _flatten(carry)
        directions = _directions(self, lambda v: gram(fixed, v), lambda u: gram(fixed, u), flat, num)
        probe = _ProbeStep(step, directions)
        out = rollout(probe, carry, xs, num_steps=num_steps, checkpoint=checkpoint, throw=False)
        done, per = _done(out), _per(out.num_steps, out.info)
        if self.directions is not None:
            exponents = jnp.sum(jnp.where(done, out.info, jnp.zeros_like(out.info)), axis=0) / per
        else:
            logs = jnp.where(done, out.info, jnp.full_like(out.info, -jnp.inf))
            exponents = (jax.nn.logsumexp(2 * logs, axis=0) - jnp.log(per)) / 2
        return LyapunovExponents(exponents, directions, out.num_steps, out.result)

    def count_steps(self, num_steps, num, dim):
        method = by_size(self.method, dim)
        columns = 0 if self.directions is not None else sum(method.count_products(dim, num))
        return num_steps * (1 + 4 * columns) + num_steps * (1 + 2 * num)


class PerStepGrowth(AbstractExponents):
    r"""$\frac1k \sum_j \ln \sigma_i(J_j)$: the best direction of every step anew. Never below the other definitions.

    **Arguments:** `method` as of `FiniteTime`; `PowerIteration` starts each step from the directions of the last one.
    """

    method: AbstractSingular | None = None

    def __call__(self, step, carry, xs, num_steps, num, checkpoint):
        flat, _ = _flatten(carry)
        singular = _SingularStep(step, by_size(self.method, flat.size))
        start = (carry, random_frame(flat.size, num, flat.dtype))
        out = rollout(singular, start, xs, num_steps=num_steps, checkpoint=checkpoint, throw=False)
        logs = jnp.where(_done(out), out.info, jnp.zeros_like(out.info))
        exponents = jnp.sum(logs, axis=0) / _per(out.num_steps, logs)
        return LyapunovExponents(exponents, jax.lax.stop_gradient(out.carry[1]), out.num_steps, out.result)

    def count_steps(self, num_steps, num, dim):
        return num_steps * (1 + 2 * sum(by_size(self.method, dim).count_products(dim, num)) + 2 * num)


class Benettin(AbstractExponents):
    r"""A frame is carried along and made orthonormal at every step; the mean of the logarithms of its growth.

    Needs one product per direction and step, no transposed ones, no iteration, and memory for one step: the way to
    estimate exponents of long trajectories. The frame turns towards the most stretched directions by itself; started at
    the right-singular vectors of $\Phi$ it measures `FiniteTime`.

    **Arguments:**

    - `frame`: shape `(dim, num)`, orthonormal columns: where to start. Default `None`: a random frame, always the same.
    - `transient`: leave out so many first steps. Default 0.

    **Source:** G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, *Lyapunov characteristic exponents*, Meccanica 15
    (1980).
    """

    frame: Float[Array, "dim num"] | None = None
    transient: int = eqx.field(static=True, default=0)

    def __call__(self, step, carry, xs, num_steps, num, checkpoint):
        if not 0 <= self.transient < num_steps:
            raise ValueError(f"`transient` must be below the number of steps, {num_steps}, got {self.transient}.")
        flat, _ = _flatten(carry)
        if self.frame is not None and self.frame.shape != (flat.size, num):
            raise ValueError(f"`frame` must have shape {(flat.size, num)}, got {self.frame.shape}.")
        frame = random_frame(flat.size, num, flat.dtype) if self.frame is None else self.frame
        out = rollout(TangentStep(step), (carry, frame), xs, num_steps=num_steps, checkpoint=checkpoint, throw=False)
        counted = _done(out) & (jnp.arange(num_steps) >= self.transient)[:, None]
        logs = jnp.where(counted, out.info, jnp.zeros_like(out.info))
        exponents = jnp.sum(logs, axis=0) / _per(out.num_steps - self.transient, logs)
        return LyapunovExponents(exponents, out.carry[1], out.num_steps, out.result)

    def count_steps(self, num_steps, num, dim):
        del dim
        return num_steps * (1 + 2 * num)


def step_exponents(
    step: AbstractStep,
    carry: PyTree,
    xs: PyTree = None,
    *,
    num_steps: int | None = None,
    num: int = 1,
    definition: AbstractExponents | None = None,
    checkpoint: AbstractCheckpoint | None = None,
) -> LyapunovExponents:
    """Lyapunov exponents of any step along the trajectory from `carry`.

    The tangent space is that of all floating-point and complex arrays of the carry, see `TangentStep`.

    **Arguments:**

    - `step`, `carry`, `xs`, `num_steps`: as for `nestax.rollout`.
    - `num`: how many exponents, the largest ones. Default 1.
    - `definition`: default `FiniteTime()`.
    - `checkpoint`: what reverse passes keep (through the trajectory, and for the gradient of an exponent). Default
      `Segments()`: memory as the square root of the number of steps.

    **Returns** `LyapunovExponents`, differentiable in the carry and in all leaves of the step: singular vectors are
    held fixed, which is exact where they have converged (the derivative of a simple singular value; Hellmann and
    Feynman).

    **Raises** `ValueError` for less than one step, or more directions than there are dimensions.

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> chaos = nx.dynamics.LogisticMap(4.0)
    >>> out = nx.dynamics.step_exponents(chaos, jnp.array(0.3), num_steps=5_000, definition=nx.dynamics.Benettin())
    >>> print(f"{out.exponents[0]:.2f}, ln 2 is {jnp.log(2.0):.2f}")
    0.69, ln 2 is 0.69

    ```
    """
    num_steps = count_steps(xs, num_steps)
    check_carry(carry)
    dim = jax.eval_shape(lambda: _flatten(carry)[0]).size
    if not 1 <= num <= dim:
        raise ValueError(f"`num` must be between 1 and the dimension {dim}, got {num}.")
    definition = FiniteTime() if definition is None else definition
    checkpoint = Segments() if checkpoint is None else checkpoint
    return _compute(definition, exact(step), carry, xs, num_steps, num, checkpoint)


def lyapunov_exponents(
    problem: AbstractProblem,
    optimizer: AbstractOptimizer,
    players: Players,
    *,
    num_steps: int = 1,
    num: int = 1,
    definition: AbstractExponents | None = None,
    key: PRNGKeyArray | None = None,
    state: PyTree | None = None,
    checkpoint: AbstractCheckpoint | None = None,
) -> LyapunovExponents:
    """Lyapunov exponents of an optimizer on a problem: how fast runs from `players` and from next to it separate.

    Positive where runs separate (near a boundary between basins, at a repelling point, in chaos), negative where they
    come together. The tangent space is that of the players and of the floating-point arrays of the optimizer's state,
    players first.

    **Arguments:**

    - `problem`, `optimizer`, `players`: what is solved, how, and from where.
    - `num_steps`: $k$, the length of the trajectory. Default 1.
    - `num`, `definition`, `checkpoint`: as for `step_exponents`.
    - `key`: fixes the samples of a problem with randomness, which must be the same for both of two nearby runs.
    - `state`: the optimizer's state at the start. Default `None`: a new one.

    **Returns** `LyapunovExponents`, differentiable in `players`; `vmap` it for many starts.

    **Raises** `ValueError` as `step_exponents`, and for a problem with randomness without a key.

    **Example** (at a fixed point the exponents are logarithms of singular values, here of `1 - learning_rate * h`)

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.Quadratic(jnp.array([1.0, 25.0]))
    >>> out = nx.dynamics.lyapunov_exponents(problem, nx.optimizers.sgd(0.1), (problem.minimizer,), num_steps=10, num=2)
    >>> print(", ".join(f"{jnp.exp(x):.2f}" for x in out.exponents))
    1.50, 0.90

    ```
    """
    step, carry, xs = trajectory(problem, optimizer, players, num_steps, key, state)
    return step_exponents(step, carry, xs, num_steps=num_steps, num=num, definition=definition, checkpoint=checkpoint)


def trajectory(
    problem: AbstractProblem,
    optimizer: AbstractOptimizer,
    players: Players,
    num_steps: int,
    key: PRNGKeyArray | None,
    state: PyTree | None = None,
) -> tuple[AbstractStep, PyTree, PyTree]:
    """Step, carry and samples of a run; `ValueError` for a problem with randomness and no key."""
    num_steps = count(num_steps, "num_steps")
    if key is None and jax.tree.leaves(problem.samples(jax.random.key(0), 1)):
        raise ValueError(
            f"`{type(problem).__name__}` has random samples. Two nearby runs can be compared only on the same ones: "
            "pass `key=jax.random.key(0)` to fix them. (Several keys give the spread over samples.)"
        )
    state_key, sample_key = jax.random.split(jax.random.key(0) if key is None else key)
    players = check_players(players)
    if state is None:
        state = optimizer.init(problem, players, state_key)
    else:
        check_state(state, problem, optimizer, players, state_key)
    xs = stack_samples(problem, sample_key, num_steps, optimizer.samples_per_step)
    return OptimizerStep(problem, optimizer), (players, state), xs


@eqx.filter_jit
def _compute(definition, step, carry, xs, num_steps, num, checkpoint):
    return definition(step, carry, xs, num_steps, num, checkpoint)


class _GramStep(AbstractStep):
    """Adds the product of every step's Jacobian, transposed, with itself and fixed vectors."""

    step: AbstractStep
    vectors: Float[Array, "dim n"]

    def __call__(self, carry, x):
        inner, total = carry
        flat, function, new = _local(self.step, inner, x)
        return (new, total + _pull(function, flat, _push(function, flat, self.vectors))), None

    def iterate(self, carry):
        return self.step.iterate(carry[0])


class _ProbeStep(AbstractStep):
    """Tells the logarithms of the lengths to which every step stretches fixed vectors."""

    step: AbstractStep
    vectors: Float[Array, "dim n"]

    def __call__(self, carry, x):
        flat, function, new = _local(self.step, carry, x)
        return new, _log_lengths(_push(function, flat, self.vectors))

    def iterate(self, carry):
        return self.step.iterate(carry)


class _SingularStep(AbstractStep):
    """Tells the logarithms of the largest singular values of every step; carries their vectors along."""

    step: AbstractStep
    method: AbstractSingular

    def __call__(self, carry, x):
        inner, frame = carry
        flat, function, _ = _local(*_constant((self.step, inner, x)))

        def push(v):
            return _push(function, flat, v)

        def pull(u):
            return _pull(function, flat, u)

        frame = jax.lax.stop_gradient(self.method.leading(push, pull, jax.lax.stop_gradient(frame)))
        flat, function, new = _local(self.step, inner, x)
        return (new, frame), _log_lengths(_push(function, flat, frame))

    def iterate(self, carry):
        return self.step.iterate(carry[0])


def _flatten(carry: PyTree) -> tuple[Float[Array, " dim"], Callable]:
    """The floating-point coordinates of a carry, and the way back to a whole carry."""
    moving, fixed = eqx.partition(carry, eqx.is_inexact_array)
    flat, unravel = ravel_real(moving)
    return flat, lambda vector: eqx.combine(unravel(vector), fixed)


def _local(step, carry, x):
    """Coordinates, the step as a function of them, and the next carry."""
    flat, at = _flatten(carry)

    def function(flat):
        return ravel_real(eqx.filter(step(at(flat), x)[0], eqx.is_inexact_array))[0], None

    return flat, function, step(carry, x)[0]


def _push(function, flat, vectors):
    return jax.vmap(lambda v: jax.jvp(lambda w: function(w)[0], (flat,), (v,))[1], in_axes=1, out_axes=1)(vectors)


def _pull(function, flat, vectors):
    pullback = jax.vjp(lambda w: function(w)[0], flat)[1]
    return jax.vmap(lambda u: pullback(u)[0], in_axes=1, out_axes=1)(vectors)


def _log_lengths(vectors):
    """Of columns; they are scaled first, since squares overflow early."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=0))
    scale = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    return jnp.log(jnp.linalg.norm(vectors / scale[None, :], axis=0)) + jnp.log(scale)


def _directions(definition, push, pull, flat, num):
    if definition.directions is not None:
        if definition.directions.shape != (flat.size, num):
            raise ValueError(f"`directions` must have shape {(flat.size, num)}, got {definition.directions.shape}.")
        return definition.directions
    method = by_size(definition.method, flat.size)
    return jax.lax.stop_gradient(method.leading(push, pull, random_frame(flat.size, num, flat.dtype)))


def _count(definition, num_steps, num, dim):
    if definition.directions is not None:
        return 0
    pushed, pulled = by_size(definition.method, dim).count_products(dim, num)
    return num_steps * (1 + 2 * pushed + 2 * pulled)


def _constant(tree):
    """Not differentiated: the search for directions needs no derivative."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, tree)


def _done(out):
    return (jnp.arange(jax.tree.leaves(out.info)[0].shape[0]) < out.num_steps)[:, None]


def _per(count, like):
    return jnp.maximum(count, 1).astype(like.dtype)
