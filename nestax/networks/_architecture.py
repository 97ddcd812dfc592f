"""Networks for classification: the interface, and what all of them share."""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import is_concrete, unknown_name
from .._gated import Gated, form, is_gated, last_axes, linear, vector
from .._tree import as_float_array, default_float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
}


Weight = Float[Array, "..."] | Gated
"""An array of parameters, or a `Gated`, one that differs from example to example."""

Layer = dict[str, Weight]
"""The parameters of one affine layer: `"weight"` and `"bias"`."""


Site = Callable[[str, Array], Array]
"""What may act inside a network: from the name of a place and the values there to the values that go on."""


def unchanged(name: str, values: Array) -> Array:
    """The `Site` that does nothing."""
    del name
    return values


def check_activation(activation: str) -> str:
    """Returns the name of an activation function, or raises `ValueError` with the nearest known one."""
    if activation not in ACTIVATIONS:
        raise unknown_name("`activation`", activation, ACTIVATIONS)
    return activation


def check_init_scale(init_scale: ArrayLike | None) -> Float[Array, ""] | None:
    """Returns `init_scale` as a scalar array or `None`, or raises `ValueError`."""
    if init_scale is None:
        return None
    scale = as_float_array(init_scale)
    if scale.shape != () or (is_concrete(scale) and not 0 <= scale < jnp.inf):
        raise ValueError(f"`init_scale` must be a finite number of at least 0, or None, got {init_scale}.")
    return scale


def draw_layer(key: PRNGKeyArray, shape: tuple[int, ...], init_scale: Float[Array, ""] | None) -> Layer:
    r"""Weights of `shape`, whose last axis is the output, and a bias for it, in the default dtype.

    From $N(0, \texttt{init\_scale}^2)$; or, where that is `None`, uniform in $\pm 1/\sqrt{n}$ with the number $n$ of
    inputs of a unit, the product of all other axes.
    """
    dtype = default_float()
    weight_key, bias_key = jax.random.split(key)
    if init_scale is None:
        bound = 1 / math.sqrt(math.prod(shape[:-1]))
        weight = jax.random.uniform(weight_key, shape, dtype, -bound, bound)
        return {"weight": weight, "bias": jax.random.uniform(bias_key, shape[-1:], dtype, -bound, bound)}
    scale = init_scale.astype(dtype)
    weight = scale * jax.random.normal(weight_key, shape, dtype)
    return {"weight": weight, "bias": scale * jax.random.normal(bias_key, shape[-1:], dtype)}


def affine(layer: Layer, z: Float[Array, "batch ... inputs"]) -> Float[Array, "batch ... outputs"]:
    """$z W + b$, where the weight, of shape `(inputs, outputs)`, and the bias may be `Gated`."""
    out = linear(lambda weight: z @ weight, layer["weight"])
    return out + vector(layer["bias"], out.ndim)


class AbstractArchitecture(eqx.Module):
    """A network as a pair of functions: one draws its parameters, the other maps inputs to logits.

    Any object of a subclass plugs into `Classifier`. Parameters are a pytree of floating-point arrays; `__call__` must
    work in whatever dtype they have (the inputs arrive in it).
    """

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> PyTree[Float[Array, "..."]]:
        """Draws parameters for examples of shape `input_shape`, in the default dtype."""

    @abc.abstractmethod
    def __call__(
        self, params: PyTree[Float[Array, "..."]], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        """The logits of a batch of inputs of shape `(batch, *input_shape)`.

        `site(name, values)` is called on the input of every layer, under the names `"layer0"`, `"layer1"` and so on,
        and its result takes the place of `values`: this is where dropout acts. A network may have other places, or
        none: its own `__call__` may leave the argument out.
        """

    def frozen(self, params: PyTree[Float[Array, "..."]], inputs: Float[Array, "batch ..."]) -> "AbstractArchitecture":
        """The network for evaluation: normalizations take their statistics from `inputs`, training images, for good.

        By default, without normalization, the network itself.
        """
        del params, inputs
        return self

    def each(self) -> "AbstractArchitecture":
        """The network for parameters that differ from example to example: some of the arrays may be `Gated`.

        By default the parameters of every example are formed, which is right for any network that computes its
        examples one by one and knows no sites, and costs their size times the examples. A network that maps by
        `affine` and `convolve` is its own, and returns `self`.
        """
        return Formed(self)

    def output_axes(self, params: PyTree) -> PyTree:
        """The `OutputAxis` of every array of `params`; `None` for one that is not to respond to hyperparameters.

        By default all respond, and outputs lie on the last axis.
        """
        return last_axes(params)


class Formed(AbstractArchitecture):
    """Any network, under parameters that differ from example to example, with those of every example formed."""

    network: AbstractArchitecture

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> PyTree[Float[Array, "..."]]:
        return self.network.init(key, input_shape, num_classes)

    def __call__(
        self, params: PyTree[Float[Array, "..."]], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        if site is not unchanged:
            name = type(self.network).__name__
            raise ValueError(
                f"Hyperparameters that act at sites differ from example to example here, and {name} is not written for "
                f"that: let it map by `nestax.networks.affine` and `convolve`, and return itself from `each`. With one "
                "draw for all examples, `nestax.hyper.Hypernetwork(StructuredResponse())` serves any network."
            )
        return gates_mapped(lambda p, x: self.network(_formed(p), x[None])[0], params, inputs)

    def output_axes(self, params: PyTree) -> PyTree:
        return self.network.output_axes(params)


def gates_mapped(
    function: Callable[[PyTree, Array], Array], params: PyTree, inputs: Float[Array, "batch ..."]
) -> Float[Array, "batch ..."]:
    """`function(params, x)` of every example, with the example's gates in each `Gated`."""
    weights, structure = jax.tree.flatten(params, is_leaf=is_gated)
    gates = [w.gate if is_gated(w) else None for w in weights]

    def one(gates, x):
        own = [w if g is None else Gated(w.weight, w.response, g, w.output) for w, g in zip(weights, gates)]
        return function(jax.tree.unflatten(structure, own), x)

    return jax.vmap(one)(gates, inputs)


def _formed(params: PyTree) -> PyTree:
    """The arrays of one example."""
    return jax.tree.map(
        lambda w: form(w.weight, w.response, w.gate, w.output) if is_gated(w) else w, params, is_leaf=is_gated
    )
