"""Products with an inverse by minimal residuals: the default."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._checks import decay, named, nonnegative
from .._tree import add_scaled, dot, norm, scaled
from ._curvature import Operator
from ._inverse import AbstractKrylov, solver_info, vector_dtype


class MINRES(AbstractKrylov):
    r"""Minimal residuals on $(C + \rho I) x = v$ (Paige and Saunders, 1975): the $x$ of the Krylov space for which
    $\lVert (C + \rho I) x - v \rVert$ is smallest.

    The default. The curvature may be indefinite, as it is for a network that is not trained out: the residual falls
    from step to step, where conjugate gradients leap along a direction of curvature close to zero. Where they apply it
    takes a few products more. One product per step, and six vectors of the size of the weights.

    **Arguments:**

    - `num_steps`: at most so many products, default 100.
    - `rtol`, `atol`: it stops at $\lVert r \rVert \le \max(rtol \lVert v \rVert, atol)$; learnable leaves, defaults
      3e-4 and 0. The relative error of a hypergradient can be larger than the residual by the condition number; 3e-4
      left 0.3 % at a condition of 211 (`benchmarks/bench_hypergradient_accuracy.py`).
    - `warm_start`: in `tune`, start from the solution of the previous outer step, which costs one product.

    **Raises** `ValueError` for `num_steps < 1`.
    """

    num_steps: int = eqx.field(static=True, default=100)
    rtol: Float[Array, ""] = eqx.field(converter=named(decay, "rtol"), default=3e-4)
    atol: Float[Array, ""] = eqx.field(converter=named(nonnegative, "atol"), default=0.0)
    warm_start: bool = eqx.field(static=True, default=False)

    def solve(self, operator, vector, guess):
        dtype = vector_dtype(vector)
        limit = jnp.maximum(self.rtol.astype(dtype) * norm(vector), self.atol.astype(dtype))
        start, residual = jax.tree.map(jnp.zeros_like, vector), vector
        if guess is not None:
            start, residual = guess, jax.tree.map(jnp.subtract, vector, operator(guess))
        state = jax.lax.while_loop(
            lambda s: (jnp.abs(s.remaining) > limit) & (s.count < self.num_steps) & ~s.finished,
            lambda s: _iterate(operator, s),
            _start(start, residual),
        )
        measured = state.count > 0
        info = solver_info(
            dtype,
            state.count if guess is None else state.count + 1,
            min_rayleigh=jnp.where(measured, state.low, jnp.nan),
            largest_eigenvalue=jnp.where(measured, state.high, jnp.nan),
            indefinite=measured & (state.low < -10 * jnp.finfo(dtype).eps * state.high),
        )
        return state.solution, info


class _State(eqx.Module):
    """Lanczos' three-term recurrence, the QR factorization of its tridiagonal matrix, and what is seen on the way."""

    solution: PyTree
    remaining: Float[Array, ""]  # the length of the residual, with a sign
    # Lanczos: the basis vector, the one before, and the number between them
    vector: PyTree
    previous: PyTree
    beta: Float[Array, ""]
    # the last two rotations, and the last two directions
    cosines: tuple[Float[Array, ""], Float[Array, ""]]
    sines: tuple[Float[Array, ""], Float[Array, ""]]
    directions: tuple[PyTree, PyTree]
    # pivot and squared length of the direction that conjugate gradients would take: their ratio is its curvature
    pivot: Float[Array, ""]
    square: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    count: Int[Array, ""]
    finished: Bool[Array, ""]


def _start(solution: PyTree, residual: PyTree) -> _State:
    length = norm(residual)
    zero, one = jnp.zeros_like(length), jnp.ones_like(length)
    none = jax.tree.map(jnp.zeros_like, residual)
    return _State(
        solution=solution,
        remaining=length,
        vector=scaled(residual, _inverse(length)),
        previous=none,
        beta=zero,
        cosines=(one, one),
        sines=(zero, zero),
        directions=(none, none),
        pivot=one,
        square=zero,
        low=jnp.full_like(length, jnp.inf),
        high=zero,
        count=jnp.zeros((), jnp.int32),
        finished=jnp.zeros((), bool),
    )


def _iterate(operator: Operator, s: _State) -> _State:
    image = operator(s.vector)
    along = dot(s.vector, image)
    high = jnp.maximum(s.high, norm(image))
    rest = add_scaled(add_scaled(image, -s.beta, s.previous), -along, s.vector)
    beta = norm(rest)
    # the new column (beta, along, new beta) of the tridiagonal matrix under the last two rotations, and its own
    (cosine, older), (sine, sine_older) = s.cosines, s.sines
    third = sine_older * s.beta
    second = cosine * older * s.beta + sine * along
    first = cosine * along - sine * older * s.beta
    diagonal = jnp.hypot(first, beta)
    new_cosine, new_sine = first * _inverse(diagonal), beta * _inverse(diagonal)
    last, before = s.directions
    direction = scaled(add_scaled(add_scaled(s.vector, -third, before), -second, last), _inverse(diagonal))
    # zero up to rounding: of `beta`, the Krylov space is all there is; of `diagonal`, the matrix is singular and the
    # vector not in its range, so that no step makes the residual smaller
    tiny = 100 * jnp.finfo(beta.dtype).eps * high
    stuck = ~(diagonal > tiny)
    step = jnp.where(stuck, 0, new_cosine * s.remaining)
    # the factorization without rotations: p = v - (beta / pivot) p', so that p.Cp is the pivot
    ratio = s.beta * _inverse(s.pivot)
    pivot, square = along - ratio * s.beta, 1 + ratio**2 * s.square
    return _State(
        solution=add_scaled(s.solution, step, direction),
        remaining=jnp.where(stuck, s.remaining, -new_sine * s.remaining),
        vector=scaled(rest, _inverse(beta)),
        previous=s.vector,
        beta=beta,
        cosines=(new_cosine, cosine),
        sines=(new_sine, sine),
        directions=(direction, last),
        pivot=pivot,
        square=square,
        low=jnp.minimum(s.low, jnp.minimum(along, pivot / square)),
        high=high,
        count=s.count + 1,
        finished=stuck | ~(beta > tiny),
    )


def _inverse(x: Float[Array, ""]) -> Float[Array, ""]:
    """1 / x, and 0 for 0."""
    return jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x))
