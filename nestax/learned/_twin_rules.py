"""What a learned minimax optimizer reads of the two gradients, and how its outputs become an update."""

import abc
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

RuleName = Literal["secant", "gradients"]

Vector = Float[Array, " n"]
Scalar = Float[Array, ""]

# Small numbers of the secant features, in units of a gradient or of a step: below the second a change counts as none.
_TINY, _NO_CHANGE, _EPS = 1e-20, 1e-12, 1e-30


class AbstractTwinRule(eqx.Module):
    """Features and updates of one player, coordinate by coordinate. It holds no arrays: weights are the network's."""

    num_features: eqx.AbstractVar[int]
    num_outputs: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, n: int, dtype) -> PyTree:
        """What is remembered of the past, at the start."""

    @abc.abstractmethod
    def features(self, own: Vector, other: Vector, memory: PyTree) -> Float[Array, "features n"]:
        """The inputs of the network, from the player's own (ascent) gradient and the other one's."""

    @abc.abstractmethod
    def direction(self, outputs: Float[Array, "outputs n"], own: Vector, other: Vector) -> Vector:
        """The update before it is scaled and bounded."""

    @abc.abstractmethod
    def remember(self, own: Vector, other: Vector, displacement: Vector) -> PyTree:
        """What is remembered for the next step."""


class Gradients(AbstractTwinRule):
    """Two raw gradients in, the update out: the published rule."""

    num_features: int = eqx.field(static=True, default=2)
    num_outputs: int = eqx.field(static=True, default=1)

    def init(self, n: int, dtype) -> None:
        del n, dtype

    def features(self, own: Vector, other: Vector, memory: None) -> Float[Array, "features n"]:
        return jnp.stack([own, other])

    def direction(self, outputs: Float[Array, "outputs n"], own: Vector, other: Vector) -> Vector:
        return outputs[0]

    def remember(self, own: Vector, other: Vector, displacement: Vector) -> None:
        return None


class SecantMemory(eqx.Module):
    """The last gradients that the player saw, and its last update."""

    own: Vector
    other: Vector
    displacement: Vector


class Secant(AbstractTwinRule):
    """Eight features without units, among them changes of the gradients over the last update; updates in units of the
    gradients."""

    num_features: int = eqx.field(static=True, default=8)
    num_outputs: int = eqx.field(static=True, default=3)

    def init(self, n: int, dtype) -> SecantMemory:
        return SecantMemory(*(jnp.zeros(n, dtype) for _ in range(3)))

    def features(self, own: Vector, other: Vector, memory: SecantMemory) -> Float[Array, "features n"]:
        size = jnp.sqrt(own**2 + other**2) + _TINY
        own_change, other_change, moved = own - memory.own, other - memory.other, memory.displacement
        slope = jnp.log((jnp.abs(other_change) + _NO_CHANGE) / (jnp.abs(moved) + _NO_CHANGE))
        return jnp.stack(
            [
                own / size,
                other / size,
                jnp.clip(jnp.log(size) / 5, -4, 1),
                jnp.arcsinh(own_change / size),
                jnp.arcsinh(other_change / size),
                _same_sign(own_change, moved),
                _same_sign(other_change, moved),
                jnp.clip(slope / 5, -2, 2),
            ]
        )

    def direction(self, outputs: Float[Array, "outputs n"], own: Vector, other: Vector) -> Vector:
        return jnp.exp(3 * outputs[2]) * (outputs[0] * own + outputs[1] * other)

    def remember(self, own: Vector, other: Vector, displacement: Vector) -> SecantMemory:
        return SecantMemory(own, other, displacement)


def _same_sign(u: Vector, v: Vector) -> Vector:
    """The sign of `u * v`, smoothly at the smallest numbers; 0 where one of them is no change at all."""
    product = jnp.abs(u) * jnp.abs(v) + _EPS
    nothing = (jnp.abs(u) <= _NO_CHANGE) | (jnp.abs(v) <= _NO_CHANGE)
    return jnp.where(nothing, jnp.zeros_like(u), u * v / product)


RULES: dict[str, AbstractTwinRule] = {"secant": Secant(), "gradients": Gradients()}
