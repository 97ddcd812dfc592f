"""The directions that a linear map stretches most: from its matrix, or by subspace iteration from products alone."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import count

Products = Callable[[Float[Array, "dim n"]], Float[Array, "dim n"]]

_SMALL = 64  # dimensions up to which the matrix is cheaper than ten power iterations


class AbstractSingular(eqx.Module):
    """A method to find the right-singular vectors of a linear map, given its products and those of its transpose."""

    @abc.abstractmethod
    def leading(self, push: Products, pull: Products, frame: Float[Array, "dim num"]) -> Float[Array, "dim num"]:
        """As many directions as `frame` has columns: orthonormal, the most stretched first; `frame` is a first
        guess."""

    @abc.abstractmethod
    def count_products(self, dim: int, num: int) -> tuple[int, int]:
        """The number of columns that are pushed, and of those pulled."""


class DenseSVD(AbstractSingular):
    """The singular value decomposition of the matrix: as many products as there are dimensions. Exact."""

    def leading(self, push, pull, frame):
        del pull
        dim, num = frame.shape
        return jnp.linalg.svd(push(jnp.eye(dim, dtype=frame.dtype)), full_matrices=False)[2][:num].T

    def count_products(self, dim, num):
        del num
        return dim, 0


class PowerIteration(AbstractSingular):
    r"""Subspace iteration $V \leftarrow \operatorname{orth}(J^\top J V)$ without a matrix.

    **Arguments:** `num_iterations`: of two products per direction each. Default 10. The estimate is never above the
    truth, and its error shrinks by $(\sigma_{n+1} / \sigma_n)^2$ per iteration.
    """

    num_iterations: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        count(self.num_iterations, "num_iterations")

    def leading(self, push, pull, frame):
        def body(_, frame):
            return _orthonormal(pull(_orthonormal(push(frame))))  # the inner one against overflow of the square

        frame = jax.lax.fori_loop(0, self.num_iterations, body, frame)
        return frame @ jnp.linalg.svd(push(frame), full_matrices=False)[2].T  # turned within its span: Rayleigh-Ritz

    def count_products(self, dim, num):
        del dim
        return (self.num_iterations + 1) * num, self.num_iterations * num


def by_size(method: AbstractSingular | None, dim: int) -> AbstractSingular:
    """The given method; for `None` the matrix in up to 64 dimensions, and ten power iterations beyond."""
    return method if method is not None else (DenseSVD() if dim <= _SMALL else PowerIteration())


def random_frame(dim: int, num: int, dtype: jnp.dtype) -> Float[Array, "dim num"]:
    """Orthonormal columns in general position, the same ones in every call."""
    return _orthonormal(jax.random.normal(jax.random.key(0), (dim, num), dtype))


def _orthonormal(matrix: Float[Array, "dim num"]) -> Float[Array, "dim num"]:
    largest = jnp.max(jnp.abs(matrix), axis=0, keepdims=True)  # columns are scaled first, since squares overflow early
    matrix = matrix / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    if matrix.shape[1] == 1:
        norm = jnp.linalg.norm(matrix)
        return matrix / jnp.where(norm > 0, norm, jnp.ones_like(norm))
    return jnp.linalg.qr(matrix)[0]
