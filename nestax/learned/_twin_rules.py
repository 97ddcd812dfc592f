"""Rules of a `TwinLSTM`: its inputs from the two gradients, and its update from the outputs of its networks."""

import abc
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import fraction, named, nonnegative, positive
from ._hyperparameters import to_float

Vector = Float[Array, " n"]
Scalar = Float[Array, ""]

# Small numbers of the secant features, in units of a gradient or of a step: below the second a change counts as none.
_TINY, _NO_CHANGE, _EPS = 1e-20, 1e-12, 1e-30


class AbstractTwinRule(eqx.Module):
    """Features and updates of one player, coordinate by coordinate. Its arrays are hyperparameters, never trained."""

    num_features: eqx.AbstractVar[int]
    num_outputs: eqx.AbstractVar[int]
    detach_iterates: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """The JSON values from which `as_rule` makes this rule again."""

    @abc.abstractmethod
    def init(self, n: int, dtype) -> PyTree:
        """The memory of the past, at the start."""

    @abc.abstractmethod
    def features(self, own: Vector, other: Vector, memory: PyTree) -> Float[Array, "features n"]:
        """The inputs of the network, from the player's own (ascent) gradient and the other one's."""

    @abc.abstractmethod
    def direction(self, outputs: Float[Array, "outputs n"], own: Vector, other: Vector) -> Vector:
        """The update before it is scaled and bounded."""

    @abc.abstractmethod
    def remember(self, own: Vector, other: Vector, displacement: Vector) -> PyTree:
        """The memory for the next step."""

    def start(self, hidden: PyTree, key: PRNGKeyArray) -> PyTree:
        """The recurrent state at the start of a run, from the zero state. By default zero."""
        del key
        return hidden

    def recall(self, hidden: PyTree) -> PyTree:
        """The recurrent state that the network reads, from the one that it left. By default the same."""
        return hidden

    def finish(self, displacement: Vector, half_steps: Int[Array, ""]) -> Vector:
        """The update, from the scaled and bounded one and the number of moves before it. By default the same."""
        del half_steps
        return displacement


class GradientRule(AbstractTwinRule):
    """Two raw gradients in, the update out: the published rule."""

    num_features: int = eqx.field(static=True, default=2)
    num_outputs: int = eqx.field(static=True, default=1)
    detach_iterates: bool = eqx.field(static=True, default=False)

    def config(self) -> dict[str, Any]:
        return {"name": "gradients"}

    def init(self, n: int, dtype) -> None:
        del n, dtype

    def features(self, own: Vector, other: Vector, memory: None) -> Float[Array, "features n"]:
        return jnp.stack([own, other])

    def direction(self, outputs: Float[Array, "outputs n"], own: Vector, other: Vector) -> Vector:
        return outputs[0]

    def remember(self, own: Vector, other: Vector, displacement: Vector) -> None:
        return None


class ReleasedRule(AbstractTwinRule):
    r"""`GradientRule` with the departures of the released code from the paper.

    **Arguments:**

    - `horizon`: steps of a run, over a share of which the warm-up is spread. A trained optimizer keeps that of its
      training; for runs of another length replace it: `eqx.tree_at(lambda o: o.rule.horizon, optimizer, 1000.0)`.
    - `state_rescale`: factor on the recurrent state before every call of a network. Default $10^{-4}$, which makes the
      networks practically maps without memory; 1 in the paper.
    - `initial_noise`: standard deviation of the initial recurrent state. Default 0.01; 0 in the paper.
    - `warmup_fraction`, `warmup_start`, `warmup_stop`: for the moves $k = 1, 2, \dots$ of single players with $k$
      less than this share $W$ of all moves of a run, the update is $\operatorname{sign}(o_1) s_k$ with $s_k$ growing
      linearly, $s_k = a + (b - a)(k - 1) / W$. Default 0.2 with $a = 10^{-4}, b = 10^{-1}$; 0 (none) in the paper.
    - `detach_iterates`: cut the meta-gradient at every iterate, so that each move is trained on its own change only.
      Default true; false in the paper.

    **Raises** `ValueError` for a `horizon` that is not positive, and for a `warmup_fraction` outside of [0, 1].
    """

    horizon: Float[Array, ""] = eqx.field(converter=named(positive, "horizon"))
    state_rescale: Float[Array, ""] = eqx.field(converter=named(nonnegative, "state_rescale"), default=1e-4)
    initial_noise: Float[Array, ""] = eqx.field(converter=named(nonnegative, "initial_noise"), default=0.01)
    warmup_fraction: Float[Array, ""] = eqx.field(converter=named(fraction, "warmup_fraction"), default=0.2)
    warmup_start: Float[Array, ""] = eqx.field(converter=named(nonnegative, "warmup_start"), default=1e-4)
    warmup_stop: Float[Array, ""] = eqx.field(converter=named(nonnegative, "warmup_stop"), default=0.1)
    detach_iterates: bool = eqx.field(static=True, default=True)
    num_features: int = eqx.field(static=True, default=2)
    num_outputs: int = eqx.field(static=True, default=1)

    def config(self) -> dict[str, Any]:
        scalars = ("horizon", "state_rescale", "initial_noise", "warmup_fraction", "warmup_start", "warmup_stop")
        numbers = {name: to_float(getattr(self, name), name) for name in scalars}
        return {"name": "released", **numbers, "detach_iterates": self.detach_iterates}

    def init(self, n: int, dtype) -> None:
        del n, dtype

    def features(self, own: Vector, other: Vector, memory: None) -> Float[Array, "features n"]:
        return jnp.stack([own, other])

    def direction(self, outputs: Float[Array, "outputs n"], own: Vector, other: Vector) -> Vector:
        return outputs[0]

    def remember(self, own: Vector, other: Vector, displacement: Vector) -> None:
        return None

    def start(self, hidden: PyTree, key: PRNGKeyArray) -> PyTree:
        leaves, structure = jax.tree.flatten(hidden)
        noise = [
            x + self.initial_noise.astype(x.dtype) * jax.random.normal(k, x.shape, x.dtype)
            for x, k in zip(leaves, jax.random.split(key, len(leaves)))
        ]
        return jax.tree.unflatten(structure, noise)

    def recall(self, hidden: PyTree) -> PyTree:
        return jax.tree.map(lambda x: self.state_rescale.astype(x.dtype) * x, hidden)

    def finish(self, displacement: Vector, half_steps: Int[Array, ""]) -> Vector:
        dtype = displacement.dtype
        total = jnp.floor(2 * self.warmup_fraction * self.horizon).astype(dtype)
        start, stop = self.warmup_start.astype(dtype), self.warmup_stop.astype(dtype)
        size = start + (stop - start) * half_steps.astype(dtype) / jnp.maximum(total, 1)
        return jnp.where(half_steps.astype(dtype) + 1 < total, jnp.sign(displacement) * size, displacement)


class SecantMemory(eqx.Module):
    """The last gradients that the player read, and its last update."""

    own: Vector
    other: Vector
    displacement: Vector


class SecantRule(AbstractTwinRule):
    """Eight features without units, among them changes of the gradients over the last update; updates in units of the
    gradients."""

    num_features: int = eqx.field(static=True, default=8)
    num_outputs: int = eqx.field(static=True, default=3)
    detach_iterates: bool = eqx.field(static=True, default=False)

    def config(self) -> dict[str, Any]:
        return {"name": "secant"}

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


RULES: dict[str, type[AbstractTwinRule]] = {
    "secant": SecantRule,
    "gradients": GradientRule,
    "released": ReleasedRule,
}


def as_rule(rule: str | Mapping[str, Any] | AbstractTwinRule) -> AbstractTwinRule:
    """A rule by its name, or from the `config` of one."""
    if isinstance(rule, AbstractTwinRule):
        return rule
    name, arguments = (rule, {}) if isinstance(rule, str) else (rule.get("name"), {**rule})
    arguments.pop("name", None)
    if name not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(map(repr, RULES))}, or a rule object, got {rule!r}.")
    if name == "released" and "horizon" not in arguments:
        raise ValueError("The released rule needs the steps of a run: `rule=nestax.learned.ReleasedRule(horizon=...)`.")
    return RULES[name](**arguments)
