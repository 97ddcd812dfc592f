"""Resolvents, which are implicit steps on the joint gradient of a problem, and Halpern's average with an anchor."""

import abc

import equinox as eqx
import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from ._checks import positive


class AbstractResolvent(eqx.Module):
    r"""The map $J = (I + \alpha g)^{-1}$ of one problem, with its joint gradient $g$: solves $p + \alpha g(p) = u$.

    An implicit step. It holds whatever is computed once per problem and step size $\alpha$, such as a factorization.
    """

    @abc.abstractmethod
    def __call__(self, players: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        """$J(u)$."""


def check_step_size(step_size: ArrayLike, name: str = "step_size") -> Float[Array, ""]:
    """A positive floating-point scalar array, or `ValueError`; under a transformation its value is not looked at."""
    step_size = positive(step_size, name)
    if step_size.shape != ():
        raise ValueError(f"`{name}` must be a scalar, got shape {step_size.shape}.")
    return step_size


def toward_anchor(anchor: PyTree, players: PyTree, count: Int[Array, ""]) -> PyTree:
    """`anchor / (count + 1) + count / (count + 1) * players`, in the dtypes of `players`."""

    def leaf(a, p):
        weight = 1 / (count + 1).astype(a.dtype)
        return (weight * a + (1 - weight) * p.astype(a.dtype)).astype(p.dtype)

    return jax.tree.map(leaf, anchor, players)
