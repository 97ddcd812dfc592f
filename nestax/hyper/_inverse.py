"""Products with an inverse: the interface, and the methods that are truncated series."""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._checks import finite, named, positive
from .._tree import add_scaled, common_dtype, dot, scaled, upcast_dtype
from ._curvature import Operator


class SolverInfo(eqx.Module):
    r"""What a solver tells of one product with an inverse. A number that a solver does not measure is NaN.

    - `num_products`: products with the curvature that it computed.
    - `min_rayleigh`: the smallest $p^\top C p / p^\top p$ that it met.
    - `largest_eigenvalue`: an estimate of the largest eigenvalue, from below.
    - `diverged`: a series grew, and was cut off.
    - `indefinite`: a direction of negative curvature was met.
    - `singular`: a factorization met a pivot that is zero up to rounding.
    - `condition`: the ratio of the largest to the smallest pivot or eigenvalue.
    """

    num_products: Int[Array, ""]
    min_rayleigh: Float[Array, ""]
    largest_eigenvalue: Float[Array, ""]
    diverged: Bool[Array, ""]
    indefinite: Bool[Array, ""]
    singular: Bool[Array, ""]
    condition: Float[Array, ""]


def solver_info(
    dtype: Any,
    num_products: int | Int[Array, ""],
    *,
    min_rayleigh: Float[Array, ""] | None = None,
    largest_eigenvalue: Float[Array, ""] | None = None,
    diverged: bool | Bool[Array, ""] = False,
    indefinite: bool | Bool[Array, ""] = False,
    singular: bool | Bool[Array, ""] = False,
    condition: Float[Array, ""] | None = None,
) -> SolverInfo:
    """A `SolverInfo` in `dtype`, with NaN for what is not given."""

    def number(value):
        return jnp.asarray(jnp.nan, dtype) if value is None else value.astype(dtype)

    return SolverInfo(
        jnp.asarray(num_products, jnp.int32),
        number(min_rayleigh),
        number(largest_eigenvalue),
        jnp.asarray(diverged),
        jnp.asarray(indefinite),
        jnp.asarray(singular),
        number(condition),
    )


class AbstractInverse(eqx.Module):
    """A way to multiply a vector by the inverse of a symmetric curvature that is given by its products."""

    @property
    def num_batches(self) -> int | None:
        """How many training batches it uses: `None` is one, the same for all products."""
        return None

    @property
    def needs_damping(self) -> bool:
        """Whether it exists for a positive damping only."""
        return False

    @property
    def warm_start(self) -> bool:
        """Whether it starts from the solution of the previous outer step where there is one."""
        return False

    def with_tolerance(self, tolerance: Float[Array, ""]) -> "AbstractInverse":
        """The same solver with this absolute tolerance on its residual. By default there is none to set."""
        del tolerance
        return self

    @abc.abstractmethod
    def solve(self, operator: Operator, vector: PyTree, guess: PyTree | None) -> tuple[PyTree, SolverInfo]:
        """$x \approx (C + \rho I)^{-1} v$, from `guess` where the solver is iterative and there is one."""


class AbstractKrylov(AbstractInverse):
    """One that builds a Krylov space by at most `num_steps` products, and stops at a tolerance on the residual."""

    num_steps: eqx.AbstractVar[int]
    rtol: eqx.AbstractVar[Float[Array, ""]]
    atol: eqx.AbstractVar[Float[Array, ""]]

    def __check_init__(self):
        if self.num_steps < 1:
            name = f"{type(self).__name__}(num_steps=...)"
            raise ValueError(f"`{name}` must be at least 1, got {self.num_steps}.")

    def with_tolerance(self, tolerance):
        return dataclasses.replace(self, rtol=jnp.zeros_like(tolerance), atol=tolerance)


def vector_dtype(tree: PyTree) -> Any:
    """The dtype in which inner products of such vectors are computed."""
    return upcast_dtype(common_dtype(tree))


def power_iteration(operator: Operator, like: PyTree, num_steps: int) -> Float[Array, ""]:
    r"""The largest absolute eigenvalue, from below, as $\lVert C u \rVert$ for a unit vector $u$ after `num_steps`
    products, from a fixed pseudo-random start.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    start = [jax.random.normal(k, x.shape, upcast_dtype(x.dtype)).astype(x.dtype) for k, x in zip(keys, leaves)]

    def body(_, state):
        vector, _ = state
        length = jnp.sqrt(dot(vector, vector))
        image = operator(scaled(vector, 1 / length))
        return image, jnp.sqrt(dot(image, image))

    zero = jnp.zeros((), vector_dtype(like))
    return jax.lax.fori_loop(0, num_steps, body, (jax.tree.unflatten(structure, start), zero))[1]


def _as_alpha(value: Any) -> Any:
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f'`alpha` must be a positive number or "auto", got {value!r}.')
        return value
    if isinstance(value, int | float) and not value > 0:
        raise ValueError(f'`alpha` must be positive, got {value!r}. Pass "auto" for 1 / (the largest eigenvalue).')
    return positive(value, "alpha")


POWER_STEPS = 10
"""Products that `alpha="auto"` costs."""


def _step_size(alpha: Any, operator: Operator, vector: PyTree) -> tuple[Float[Array, ""], int]:
    dtype = vector_dtype(vector)
    if isinstance(alpha, str):
        top = power_iteration(operator, vector, POWER_STEPS)
        return jnp.where(top > 0, 1 / jnp.where(top > 0, top, 1), 1), POWER_STEPS
    return alpha.astype(dtype), 0


class Neumann(AbstractInverse):
    r"""The truncated Neumann series (Lorraine, Vicol and Duvenaud, 2020, Algorithm 3; Lorraine, 2024, Algorithm 6):

    $$x = \alpha \sum_{j=0}^{n-1} (I - \alpha C)^j v$$

    with $n$ terms, hence $n - 1$ products. Equal to unrolling $n$ steps of gradient descent with learning rate $\alpha$
    at an exact optimum (Lorraine, 2024, Theorem 2). It converges to $C^{-1} v$ where $0 < \alpha < 2 / \lambda_{\max}$
    and $C$ is positive definite. Truncated, it regularizes: along an eigenvector with eigenvalue $\mu$ the gain is
    $(1 - (1 - \alpha\mu)^n) / \mu$, at most $\alpha n$, so it is finite for singular curvature.

    **Arguments:**

    - `num_terms`: $n \ge 1$, default 20. The published algorithm's "i iterations" are $i + 1$ terms.
    - `alpha`: the step size, a learnable leaf; or `"auto"` (default): $1 / \hat\lambda_{\max}$ by ten steps of power
      iteration, ten products more, which cannot diverge on a positive curvature. The published choice is the learning
      rate of the inner optimizer, which is right for SGD; for Adam or momentum that number means nothing here.
    - `growth`: the series counts as diverged where a term is this many times larger than the first (default 10).
      No more terms are added; the remaining products go into the estimate of the largest eigenvalue.

    - `fresh_batches`: give every term a training batch of its own (Agarwal et al., 2017, LiSSA), from `Batches` of
      `num_terms` inner samples: the factors are independent, and each product costs a linearization more. Default
      `False`: one batch for all, as published.

    **Raises** `ValueError` for `num_terms < 1`, a bad `alpha`, or `growth <= 1`.
    """

    num_terms: int = eqx.field(static=True, default=20)
    alpha: Any = eqx.field(converter=_as_alpha, default="auto")
    growth: Float[Array, ""] = eqx.field(converter=named(finite, "growth"), default=10.0)
    fresh_batches: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.num_terms < 1:
            raise ValueError(f"`Neumann(num_terms=...)` must be at least 1, got {self.num_terms}.")
        if not isinstance(self.growth, jax.core.Tracer) and jnp.ndim(self.growth) == 0 and not self.growth > 1:
            raise ValueError(f"`Neumann(growth=...)` must be above 1, got {self.growth}.")

    @property
    def num_batches(self) -> int | None:
        return self.num_terms if self.fresh_batches else None

    def solve(self, operator, vector, guess):
        del guess  # a polynomial of the curvature applied to `vector`: there is nothing to start from
        alpha, num_products = _step_size(self.alpha, operator, vector)
        first = dot(vector, vector)
        limit = self.growth.astype(first.dtype) ** 2 * first
        tiny = jnp.finfo(first.dtype).eps

        # With p' = p - alpha C p, the quotients p.Cp / p.p and |Cp| / |p| follow from |p'|^2 and p.p': two sums a term.
        def body(j, state):
            power, total, square, low, high, diverged = state
            image = operator(power, j + 1)
            new = add_scaled(power, -alpha, image)
            along, new_square = dot(power, new), dot(new, new)
            alive = square > 0  # the powers of a contraction end at zero
            safe = jnp.where(alive, square, 1)
            ratio, mixed = new_square / safe, along / safe
            low = jnp.minimum(low, jnp.where(alive, (1 - mixed) / alpha, jnp.inf))
            gain = jnp.sqrt(jnp.maximum(1 - 2 * mixed + ratio, 0)) / alpha
            high = jnp.maximum(high, jnp.where(alive, gain, 0))
            grown = diverged | ~(new_square <= limit)  # not (a > b), which NaN would pass
            total = jax.tree.map(lambda t, p: jnp.where(grown, t, t + p), total, new)
            # Once cut off, the powers only serve the eigenvalue: rescaled, so that they stay finite.
            scale = jnp.where(grown & (new_square > 0), jax.lax.rsqrt(new_square), 1)
            power = jax.tree.map(lambda p: p * scale.astype(p.dtype), new)
            return power, total, jnp.where(grown, jnp.ones_like(square), new_square), low, high, grown

        infinite = jnp.asarray(jnp.inf, first.dtype)
        state = (vector, vector, first, infinite, jnp.zeros_like(first), jnp.asarray(False))
        _, total, _, low, high, diverged = jax.lax.fori_loop(0, self.num_terms - 1, body, state)
        measured = self.num_terms > 1
        info = solver_info(
            first.dtype,
            num_products + self.num_terms - 1,
            min_rayleigh=low if measured else None,
            largest_eigenvalue=high if measured else None,
            diverged=diverged,
            indefinite=jnp.isfinite(low) & (low < -10 * tiny / alpha),  # below the rounding of `1 - mixed`
        )
        return scaled(total, alpha), info


class Identity(AbstractInverse):
    r"""The identity in place of the inverse, $x = \alpha v$ ("T1–T2", Luketina et al., 2016): no product at all.

    The Neumann series of one term, `Neumann(num_terms=1, alpha=alpha)`. The scale matters where an outer optimizer or a
    direct gradient knows scales; Adam and RMSprop do not.

    **Arguments:** `alpha`: default 1, as published; or `"auto"`, as in `Neumann`.
    """

    alpha: Any = eqx.field(converter=_as_alpha, default=1.0)

    def solve(self, operator, vector, guess):
        del guess
        alpha, num_products = _step_size(self.alpha, operator, vector)
        return scaled(vector, alpha), solver_info(alpha.dtype, num_products)
