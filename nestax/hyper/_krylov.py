"""Products with an inverse by Krylov methods: conjugate gradients, safe in float32, and GMRES."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float

from .._checks import decay, named, nonnegative
from .._tree import add_scaled, dot
from ._curvature import Operator
from ._inverse import AbstractKrylov, solver_info, vector_dtype


class CG(AbstractKrylov):
    r"""Conjugate gradients on $(C + \rho I) x = v$ (Hestenes and Stiefel, 1952; in hypergradients Pedregosa, 2016, and
    Rajeswaran et al., 2019).

    Fewest products where the curvature is well inside the positive definite matrices; elsewhere the residual may leap,
    and `MINRES` is safer. The iteration stops at $\lVert r \rVert \le \max(rtol
    \lVert v \rVert, atol)$, after `num_steps`, or before a direction of curvature that is not positive up to rounding,
    whose step would be meaningless: then $x$ is the last safe iterate, and the info says `indefinite`.

    In float32 CG loses the orthogonality of its directions: on a network of 10⁴ weights 20 steps can differ from those
    in float64 by tens of percent, in every library. Damping helps, float64 cures; `info.residual` tells.

    **Arguments:**

    - `num_steps`: at most so many products, default 20.
    - `rtol`, `atol`: tolerances on the residual, learnable leaves, default 0: all steps.
    - `warm_start`: in `tune`, start from the solution of the previous outer step, which costs one product.

    **Raises** `ValueError` for `num_steps < 1`.
    """

    num_steps: int = eqx.field(static=True, default=20)
    rtol: Float[Array, ""] = eqx.field(converter=named(decay, "rtol"), default=0.0)
    atol: Float[Array, ""] = eqx.field(converter=named(nonnegative, "atol"), default=0.0)
    warm_start: bool = eqx.field(static=True, default=False)

    def solve(self, operator, vector, guess):
        return _conjugate_gradients(operator, vector, guess, self.num_steps, self.rtol, self.atol)


class NormalCG(AbstractKrylov):
    r"""Conjugate gradients on the normal equations $(C + \rho I)^2 x = (C + \rho I) v$, for curvature that may be
    indefinite. Two products per step, and the square of the condition number.

    **Arguments:** as `CG`; the tolerances are on the residual of the normal equations.
    """

    num_steps: int = eqx.field(static=True, default=20)
    rtol: Float[Array, ""] = eqx.field(converter=named(decay, "rtol"), default=0.0)
    atol: Float[Array, ""] = eqx.field(converter=named(nonnegative, "atol"), default=0.0)
    warm_start: bool = eqx.field(static=True, default=False)

    def solve(self, operator, vector, guess):
        squared = Operator(lambda v: operator(operator(v)), jnp.zeros_like(operator.damping))
        x, info = _conjugate_gradients(squared, operator(vector), guess, self.num_steps, self.rtol, self.atol)
        info = eqx.tree_at(
            lambda i: (i.num_products, i.min_rayleigh, i.largest_eigenvalue, i.indefinite),
            info,
            (
                2 * info.num_products + 1,
                jnp.full_like(info.min_rayleigh, jnp.nan),  # those of the square are of no use
                jnp.sqrt(info.largest_eigenvalue),
                jnp.asarray(False),
            ),
        )
        return x, info


class GMRES(AbstractKrylov):
    r"""Generalized minimal residuals (Saad and Schultz, 1986), by lineax: for curvature that may be indefinite.

    **Arguments:**

    - `num_steps`: the size of the Krylov space, whose vectors are all kept; default 20. It is built once, without
      restarts, by as many products and two more for residuals.
    - `rtol`, `atol`: tolerances on the residual, default 0.
    """

    num_steps: int = eqx.field(static=True, default=20)
    rtol: Float[Array, ""] = eqx.field(converter=named(decay, "rtol"), default=0.0)
    atol: Float[Array, ""] = eqx.field(converter=named(nonnegative, "atol"), default=0.0)

    def solve(self, operator, vector, guess):
        del guess
        structure = jax.eval_shape(lambda: vector)
        linear = lineax.FunctionLinearOperator(operator, structure, lineax.symmetric_tag)
        # lineax counts restarts as its steps, of which the first only computes the residual
        dtype = vector_dtype(vector)
        rtol, atol = (cast(Any, x.astype(dtype)) for x in (self.rtol, self.atol))  # annotated as floats there
        solver = lineax.GMRES(rtol, atol, max_steps=2, restart=self.num_steps)
        with jax.numpy_dtype_promotion("standard"):  # lineax is not written for strict promotion
            out = lineax.linear_solve(linear, vector, solver, throw=False)
        return out.value, solver_info(dtype, self.num_steps + 2)


def _conjugate_gradients(operator, vector, guess, num_steps, rtol, atol):
    dtype = vector_dtype(vector)
    eps = jnp.finfo(dtype).eps
    if guess is None:
        x, residual = jax.tree.map(jnp.zeros_like, vector), vector
    else:
        x, residual = guess, jax.tree.map(jnp.subtract, vector, operator(guess))
    limit = jnp.maximum(rtol.astype(dtype) * jnp.sqrt(dot(vector, vector)), atol.astype(dtype)) ** 2

    def unfinished(state):
        _, _, _, square, steps, _, _, stopped = state
        return (square > limit) & (steps < num_steps) & ~stopped

    def iterate(state):
        x, residual, direction, square, steps, low, high, _ = state
        image = operator(direction)
        length, along = dot(direction, direction), dot(direction, image)
        low = jnp.minimum(low, along / length)
        high = jnp.maximum(high, jnp.sqrt(dot(image, image) / length))
        step = square / along
        stopped = ~(along > eps * high * length) | ~jnp.isfinite(step)
        step = jnp.where(stopped, 0, step)
        x, residual = add_scaled(x, step, direction), add_scaled(residual, -step, image)
        new = dot(residual, residual)
        return x, residual, add_scaled(residual, new / square, direction), new, steps + 1, low, high, stopped

    first = dot(residual, residual)
    state = (
        x,
        residual,
        residual,
        first,
        jnp.zeros((), jnp.int32),
        jnp.asarray(jnp.inf, dtype),
        jnp.zeros((), dtype),
        jnp.asarray(False),
    )
    x, _, _, _, steps, low, high, stopped = jax.lax.while_loop(unfinished, iterate, state)
    info = solver_info(
        dtype,
        steps if guess is None else steps + 1,
        min_rayleigh=jnp.where(steps > 0, low, jnp.nan),
        largest_eigenvalue=jnp.where(steps > 0, high, jnp.nan),
        indefinite=stopped & (low < -eps * high),
    )
    return x, info
