"""The networks of L2O-Scale: recurrent cells for coordinates, tensors and all tensors together.

Arrays are feature-major, (features, n), as in the coordinatewise network.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

_SPREAD = 0.5  # weights are normal with this over the root of the fan-in


def _normal(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, dtype: Any) -> Array:
    return jax.random.normal(key, shape, dtype) * (_SPREAD / math.sqrt(fan_in))


class BiasGRU(eqx.Module):
    r"""A gated recurrent cell with an additive bias from outside, on columns.

    With $x$ (inputs, n), $h$ (hidden, n) and $B$ (3 hidden, n or 1), whose blocks of rows are $B_r, B_u, B_c$:

    $$r, u = \sigma(W_g [x; h] + b_g + B_{r,u}), \qquad c = \tanh(W_c [x; r \odot h] + b_c + B_c), \qquad
    h' = u \odot h + (1 - u) \odot c$$

    Weights are drawn from $N(0, 0.25 / (i + H))$; $b_g$ starts at 2.2, so that states are kept, and $b_c$ at 0.
    """

    gate_weight: Float[Array, "gates inputs"]
    gate_bias: Float[Array, " gates"]
    candidate_weight: Float[Array, "hidden inputs"]
    candidate_bias: Float[Array, " hidden"]

    def __init__(self, input_size: int, hidden_size: int, dtype: Any = None, *, key: PRNGKeyArray):
        dtype = jnp.result_type(float) if dtype is None else dtype
        gate_key, candidate_key = jax.random.split(key)
        size = input_size + hidden_size
        self.gate_weight = _normal(gate_key, (2 * hidden_size, size), size, dtype)
        self.gate_bias = jnp.full(2 * hidden_size, 2.2, dtype)
        self.candidate_weight = _normal(candidate_key, (hidden_size, size), size, dtype)
        self.candidate_bias = jnp.zeros(hidden_size, dtype)

    def __call__(
        self,
        x: Float[Array, "inputs n"],
        h: Float[Array, "hidden n"],
        bias: Float[Array, "three_hidden _"] | None = None,
    ) -> Float[Array, "hidden n"]:
        gates = self.gate_weight @ jnp.concatenate([x, h]) + self.gate_bias[:, None]
        outside = jnp.zeros((), h.dtype)
        if bias is not None:
            gates, outside = gates + bias[: gates.shape[0]], bias[gates.shape[0] :]
        r, u = jnp.split(jax.nn.sigmoid(gates), 2)
        candidate = self.candidate_weight @ jnp.concatenate([x, r * h]) + self.candidate_bias[:, None] + outside
        return u * h + (1 - u) * jnp.tanh(candidate)


class Affine(eqx.Module):
    """A linear map and a bias that starts at 0."""

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, input_size: int, output_size: int, dtype: Any, *, key: PRNGKeyArray):
        self.weight = _normal(key, (output_size, input_size), input_size, dtype)
        self.bias = jnp.zeros(output_size, dtype)

    def __call__(self, x: Float[Array, "inputs n"]) -> Float[Array, "outputs n"]:
        return self.weight @ x + self.bias[:, None]


class Readout(eqx.Module):
    """One number per coordinate from its hidden state: `weight . h + bias`."""

    weight: Float[Array, " hidden"]
    bias: Float[Array, ""]

    def __call__(self, h: Float[Array, "hidden n"]) -> Float[Array, " n"]:
        return self.weight @ h + self.bias


class Direction(eqx.Module):
    """A direction, from hidden states and scaled gradients; its length is not yet that of the step."""

    weight: Float[Array, " hidden"]
    shortcut: Float[Array, " scales"]

    def __call__(self, h: Float[Array, "hidden n"], scaled: Float[Array, "scales n"]) -> Float[Array, " n"]:
        return self.weight @ h + self.shortcut @ scaled


class HierarchicalNetwork(eqx.Module):
    """Every array is a meta-parameter: 8,349 numbers with four time scales and cells of 10, 20 and 20 units."""

    coordinate: BiasGRU
    tensor: BiasGRU
    overall: BiasGRU
    tensor_to_coordinate: Affine
    overall_to_coordinate: Affine
    overall_to_tensor: Affine
    coordinate_start: Float[Array, " hidden"]
    tensor_start: Float[Array, " tensor_hidden"]
    overall_start: Float[Array, " overall_hidden"]
    direction: Direction
    scale_decay: Readout
    input_decay: Readout
    log_rate: Readout
    inertia: Float[Array, ""]
    offset: Float[Array, ""]

    def __init__(self, hidden_sizes: tuple[int, int, int], num_scales: int, dtype: Any = None, *, key: PRNGKeyArray):
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, tensor_size, overall_size = hidden_sizes
        keys = iter(jax.random.split(key, 13))
        num_features = 3 * num_scales
        self.coordinate = BiasGRU(num_features, size, dtype, key=next(keys))
        self.tensor = BiasGRU(num_features + size, tensor_size, dtype, key=next(keys))
        self.overall = BiasGRU(tensor_size, overall_size, dtype, key=next(keys))
        self.tensor_to_coordinate = Affine(tensor_size, 3 * size, dtype, key=next(keys))
        self.overall_to_coordinate = Affine(overall_size, 3 * size, dtype, key=next(keys))
        self.overall_to_tensor = Affine(overall_size, 3 * tensor_size, dtype, key=next(keys))
        self.coordinate_start, self.tensor_start, self.overall_start = (
            jax.random.uniform(next(keys), (n,), dtype, -1.0, 1.0) for n in hidden_sizes
        )
        shortcut = 1 / num_scales + 0.1 / math.sqrt(num_scales) * jax.random.normal(next(keys), (num_scales,), dtype)
        self.direction = Direction(_normal(next(keys), (size,), size, dtype), shortcut)
        self.scale_decay = Readout(_normal(next(keys), (size,), size, dtype), jnp.asarray(3.2, dtype))
        self.input_decay = Readout(_normal(next(keys), (size,), size, dtype), jnp.asarray(2.2, dtype))
        self.log_rate = Readout(jnp.zeros(size, dtype), jnp.zeros((), dtype))
        self.inertia = jnp.asarray(3.2, dtype)
        self.offset = jnp.asarray(-1.0, dtype)
