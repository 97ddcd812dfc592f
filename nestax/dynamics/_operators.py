"""Jacobians as linear operators on real vectors: of a game's joint gradient, and of one step of anything."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._gradients import joint_gradient
from .._optimizer import exact
from .._problem import AbstractProblem, Players, Sample, check_players, check_sample
from .._rollout import AbstractStep
from ._coordinates import check_carry, coordinate_numbers, ravel_real

_AT_ONCE = 256  # columns of a dense Jacobian that are pushed through together


class JacobianOperator(eqx.Module):
    """The Jacobian of a function at a point, as a linear map of vectors: made by `game_jacobian`, `step_jacobian`.

    Vectors hold the floating-point arrays of the point in pytree order; a complex array gives its real parts, then its
    imaginary parts, since the real part of a complex buffer has no complex derivative.

    - `function`, `point`: what is differentiated, and where: a function from pytrees to pytrees of the same structure.
    - `blocks`: for every player the indices of its own coordinates. What is in no block is the state of an optimizer.
    - `symmetric`: whether the Jacobian is known to be symmetric, as the Hessian of a single player is.
    """

    function: Callable[[PyTree], PyTree]
    point: PyTree
    blocks: tuple[np.ndarray, ...]
    symmetric: bool = eqx.field(static=True, default=False)

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return jax.eval_shape(lambda tree: ravel_real(tree)[0], self.point).shape[0]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the vectors."""
        return np.dtype(jax.eval_shape(lambda tree: ravel_real(tree)[0], self.point).dtype)

    def mv(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """$J v$, by one forward derivative."""
        return _product(self.function, self.point, vector)

    def transpose_mv(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        r"""$J^\top v$, by one reverse derivative."""
        return _transposed_product(self.function, self.point, vector)

    def dense(self) -> Float[Array, "dim dim"]:
        """$J$ as a matrix: as many forward derivatives as there are coordinates, and the square of them in memory."""
        return _dense(self.function, self.point)

    def unravel(self, vector: Float[Array, " dim"]) -> PyTree:
        """A vector as a pytree like the point: for instance the direction in which an eigenvector moves each player."""
        return ravel_real(self.point)[1](vector)


def game_jacobian(problem: AbstractProblem, players: Players, sample: Sample = None) -> JacobianOperator:
    r"""The game Jacobian $J = D(\partial_1 L_1, \dots, \partial_n L_n)$ at `players`: the Hessian for one player.

    **Arguments:**

    - `problem`, `players`: the game and the point.
    - `sample`: one sample of the problem. Default `None`, for deterministic problems.

    **Example**

    ```python
    >>> import nestax as nx
    >>> problem = nx.problems.DiracGAN()
    >>> matrix = nx.dynamics.game_jacobian(problem, problem.solution()).dense()
    >>> float(matrix[0, 1]), float(matrix[1, 0])
    (0.5, -0.5)

    ```
    """
    players = check_players(players)
    check_sample(problem, sample)
    return JacobianOperator(
        _JointGradient(problem, sample), players, _blocks(coordinate_numbers(players)), symmetric=len(players) == 1
    )


def step_jacobian(step: AbstractStep, carry: PyTree, x: PyTree = None) -> JacobianOperator:
    """The Jacobian of one step of anything, with respect to all floating-point and complex arrays of its carry.

    For an optimizer the step is `nx.OptimizerStep(problem, optimizer)` and the carry `(players, state)`: the Jacobian
    of its fixed-point map, momentum buffers included. Counters and keys are constants. `blocks` are the elements of
    `step.iterate(carry)` where that is a tuple, so the players; all the rest is state.

    **Arguments:**

    - `step`, `carry`: the step and the point.
    - `x`: what the step receives, so the samples of one step, stacked. Default `None`, for deterministic problems.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> problem, optimizer = nx.problems.Quadratic(jnp.array([1.0, 3.0])), nx.optimizers.sgd(0.5)
    >>> players = (problem.minimizer,)
    >>> carry = (players, optimizer.init(problem, players, jax.random.key(0)))
    >>> print(nx.dynamics.step_jacobian(nx.OptimizerStep(problem, optimizer), carry).dense())
    [[ 0.5  0. ]
     [ 0.  -0.5]]

    ```
    """
    step = exact(step)
    check_carry(carry)
    moving, fixed = eqx.partition(carry, eqx.is_inexact_array)
    iterate = step.iterate(coordinate_numbers(moving))
    blocks = _blocks(iterate if isinstance(iterate, tuple) else (iterate,))
    return JacobianOperator(_Advance(step, fixed, x), moving, blocks)


class _JointGradient(eqx.Module):
    problem: AbstractProblem
    sample: Sample

    def __call__(self, players):
        return joint_gradient(self.problem, players, self.sample)[1]


class _Advance(eqx.Module):
    step: AbstractStep
    fixed: PyTree
    x: PyTree

    def __call__(self, moving):
        new, _ = self.step(eqx.combine(moving, self.fixed), self.x)
        return eqx.filter(new, eqx.is_inexact_array)


def _blocks(numbers: tuple[PyTree, ...]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate([np.zeros(0, int), *jax.tree.leaves(block)]) for block in numbers)


def _flat(function, point):
    start, unravel = ravel_real(point)
    return start, lambda vector: ravel_real(function(unravel(vector)))[0]


@eqx.filter_jit
def _product(function, point, vector):
    start, flat = _flat(function, point)
    return jax.jvp(flat, (start,), (vector,))[1]


@eqx.filter_jit
def _transposed_product(function, point, vector):
    start, flat = _flat(function, point)
    return jax.vjp(flat, start)[1](vector)[0]


@eqx.filter_jit
def _dense(function, point):
    start, flat = _flat(function, point)
    _, push = jax.linearize(flat, start)
    basis = jnp.eye(start.size, dtype=start.dtype)
    return jax.lax.map(push, basis, batch_size=min(_AT_ONCE, start.size)).T
