"""The tangent lift of a step: how nearby trajectories separate."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from .._optimizer import exact
from .._rollout import AbstractStep
from ._coordinates import check_carry, ravel_real


class TangentStep(AbstractStep):
    r"""Carries an orthonormal frame along with any step (Benettin et al., 1980).

    With $F$ the step and $J = DF$ its Jacobian at the carry, the frame $Q$ (columns) becomes $Q'$ in $J Q = Q' R$ (QR
    with positive diagonal), and the info is $\log \operatorname{diag} R$: the local exponents, natural logarithm per
    step. Their mean over a rollout estimates the leading Lyapunov exponents.

    The carry is `(inner carry, frame)`. All floating-point arrays of the inner carry span the tangent space, raveled in
    pytree order; a complex array counts as its real parts followed by its imaginary parts. `frame` has shape
    `(dimension, directions)` and orthonormal columns, see `init_frame`.
    """

    step: AbstractStep

    def __call__(
        self, carry: tuple[PyTree, Float[Array, "dim directions"]], x: PyTree
    ) -> tuple[tuple[PyTree, Float[Array, "dim directions"]], Float[Array, " directions"]]:
        step, (inner, frame) = exact(self.step), carry
        moving, fixed = eqx.partition(inner, eqx.is_inexact_array)
        flat, unravel = ravel_real(moving)

        def advance(flat):
            new, _ = step(eqx.combine(unravel(flat), fixed), x)
            new_moving, new_fixed = eqx.partition(new, eqx.is_inexact_array)
            return ravel_real(new_moving)[0], new_fixed

        new_flat, push, new_fixed = jax.linearize(advance, flat, has_aux=True)
        q, r = jnp.linalg.qr(jax.vmap(push, in_axes=1, out_axes=1)(frame))
        diagonal = jnp.diagonal(r)
        sign = jnp.where(diagonal < 0, -jnp.ones_like(diagonal), jnp.ones_like(diagonal))
        return (eqx.combine(unravel(new_flat), new_fixed), q * sign[None, :]), jnp.log(jnp.abs(diagonal))

    def iterate(self, carry):
        return self.step.iterate(carry[0])


def init_frame(carry: PyTree, num_directions: int | None = None) -> Shaped[Array, "dim directions"]:
    """The first `num_directions` coordinate directions of the tangent space of `carry`; by default all of them."""
    check_carry(carry)
    flat, _ = ravel_real(eqx.filter(carry, eqx.is_inexact_array))
    num = flat.size if num_directions is None else num_directions
    if not 1 <= num <= flat.size:
        raise ValueError(f"`num_directions` must be between 1 and the dimension {flat.size}, got {num_directions}.")
    return jnp.eye(flat.size, num, dtype=flat.dtype)
