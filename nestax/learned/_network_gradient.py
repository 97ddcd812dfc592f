"""The gradient of the coordinatewise network, summed over coordinates: a backward pass written by hand.

Arrays are feature-major, as in the network. That the result equals automatic differentiation is a test.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ._network import CoordinatewiseLSTM, LSTMState

# Coordinates per block in `weighted_outputs_gradient`. The stored factors of a block, 16 H T numbers per layer and
# coordinate, should stay near the core: 256 was the fastest of 64, 128, ..., 1,024 for two layers of 20 and 20 steps.
_BLOCK = 256
_LANES = 16  # blocks are a multiple of this long where they can be: whole vector registers


def weighted_outputs_gradient(
    network: CoordinatewiseLSTM,
    features: Float[Array, "steps features n"],
    state: tuple[LSTMState, ...],
    cotangents: Float[Array, "steps n"],
    postprocess: Callable[[Float[Array, " block"]], Float[Array, " block"]] = lambda output: output,
    *,
    block_size: int | None = None,
) -> CoordinatewiseLSTM:
    r"""The gradient of $\sum_t \langle w_t, \mathrm{postprocess}(y_t) \rangle$ with respect to the network.

    $y_0, \dots, y_{T-1}$ are the outputs of the network run from `state` over `features`, and $w_t$ the `cotangents`.
    Features, state and cotangents are constants. The result equals `jax.grad` of that scan to rounding, and is shaped
    like `network`. It is not meant to be differentiated again: for that, differentiate the scan.

    **Arguments:**

    - `features`: (T, features, n). `state`: as from `network.init_state`. `cotangents`: (T, n). All of them in the
      dtype of the weights.
    - `postprocess`: elementwise, as it is applied to a block of coordinates at a time. It may close over traced
      scalars.
    - `block_size`: coordinates per block. Default 256.

    **Method:** the sum is over coordinates, so it is taken block by block, with the whole time loop inside of a block:
    what a block stores for its backward pass stays near the core, and memory does not grow with T n. The backward pass
    is written by hand. In its forward loop a layer stores, in place of its activations, the six factors by which the
    backward loop multiplies: four for the gates, two for the cell. The backward loop is then nothing but matrix
    products and multiplications, and no activation is computed twice: one forward evaluation and two matrix products
    of its size. Measured for 15,910 coordinates, T = 20, on one core: about 7 ms per step, of which 5.5 ms are products
    and tanh; the same blocks with recomputed activations 8.7; plain autodiff of the scan about four times as long.
    """
    n = features.shape[-1]
    dtype = network.readout_weight.dtype
    for name, tree in (("features", features), ("state", state), ("cotangents", cotangents)):
        for x in jax.tree.leaves(tree):
            if x.dtype != dtype:
                raise TypeError(f"`{name}` must have the dtype of the network, {dtype}, got {x.dtype}.")
    num_blocks, block = _blocks(n, _BLOCK if block_size is None else block_size)
    steps = features.shape[0]

    def one_block(k, carry):
        gradient, buffers = carry
        # The last block ends with the last coordinate. It may overlap its predecessor; the overlap has no weight.
        start = jnp.minimum(k * block, n - block)

        def cut(x):
            return lax.dynamic_slice_in_dim(x, start, block, x.ndim - 1)

        fresh = (start + jnp.arange(block) >= k * block)[None]
        weights = jnp.where(fresh, cut(cotangents), jnp.zeros((), dtype))
        return _block_gradient(
            network, cut(features), jax.tree.map(cut, state), weights, postprocess, gradient, buffers
        )

    # The buffers are allocated once and reused by every block.
    zeros = [jnp.zeros_like(x) for x in _arrays(network)]
    gradient, _ = lax.fori_loop(0, num_blocks, one_block, (zeros, _buffers(network, steps, block, dtype)))
    return eqx.tree_at(_arrays, network, gradient)


def _blocks(n: int, block_size: int) -> tuple[int, int]:
    """Number and size of blocks that cover n coordinates about evenly."""
    if block_size < 1:
        raise ValueError(f"`block_size` must be at least 1, got {block_size}.")
    num = max(1, -(-n // block_size))
    block = -(-n // num)
    return num, min(n, -(-block // _LANES) * _LANES)


class _Stored(eqx.Module):
    """What the forward loop of a block stores of one layer, for all steps.

    With u = (i, j, f, o) before activation: `gates` (T, 4, H, B) is dc'/du for i, j, f and dh'/do for o; `output`
    (T, H, B) is dh'/dc'; `forget` (T, H, B) is dc'/dc; `hidden` (T + 1, H, B) is h, from the initial one on. They are
    separate arrays because XLA does not vectorize a loop that reads a part of a time step of a larger one.
    """

    gates: Array
    output: Array
    forget: Array
    hidden: Array


def _buffers(
    network: CoordinatewiseLSTM, steps: int, block: int, dtype: Any
) -> tuple[tuple[_Stored, ...], Array | None]:
    layers = []
    for size in network.hidden_sizes:
        shapes = (steps, 4, size, block), (steps, size, block), (steps, size, block), (steps + 1, size, block)
        layers.append(_Stored(*(jnp.zeros(shape, dtype) for shape in shapes)))
    size = network.projection_size
    return tuple(layers), None if size is None else jnp.zeros((steps, size, block), dtype)


def _put(buffer: Array, value: Array, *index: Any) -> Array:
    """`buffer` with `value` at `index` of its leading axes. XLA does it in place, fused with what computes `value`."""
    index = tuple(jnp.asarray(i, jnp.int32) for i in index) + (jnp.int32(0),) * value.ndim
    return lax.dynamic_update_slice(buffer, value.reshape((1,) * (buffer.ndim - value.ndim) + value.shape), index)


def _at(buffer: Array, t: Any) -> Array:
    return lax.dynamic_index_in_dim(buffer, t, 0, keepdims=False)


def _block_gradient(network, features, state, cotangents, postprocess, gradient, buffers):
    """Adds the gradient of one block to `gradient`, ordered as `_arrays`; returns it and the (used) buffers."""
    steps, _, block = features.shape
    num_layers = len(network.cells)
    dtype = features.dtype
    folded = [cell.folded() for cell in network.cells]

    def forward(t, carry):
        cells, stored, projected = carry
        x = network.project(_at(features, t))
        if projected is not None:
            projected = _put(projected, x, t)
        new_cells, new_stored = [], []
        for (weight, bias), (h, c), s in zip(folded, cells, stored):
            # Inside of a block one tanh over all gates is the faster form: written once, it is read six times.
            gates = jnp.tanh(weight @ jnp.concatenate([x, h]) + bias[:, None])
            i, j, f, o = jnp.split(gates, 4)
            input_gate, forget_gate, output_gate = 0.5 + 0.5 * i, 0.5 + 0.5 * f, 0.5 + 0.5 * o
            new_c = forget_gate * c + input_gate * j
            tanh_c = jnp.tanh(new_c)
            x = output_gate * tanh_c
            # The logistic function's derivative is (1 - tanh(x/2)^2)/4. Four separate writes, each in place
            # and vectorized, rather than a concatenation that would have to be copied into the buffer.
            factors = s.gates
            factors = _put(factors, j * (0.25 - 0.25 * i * i), t, 0)
            factors = _put(factors, input_gate * (1 - j * j), t, 1)
            factors = _put(factors, c * (0.25 - 0.25 * f * f), t, 2)
            factors = _put(factors, tanh_c * (0.25 - 0.25 * o * o), t, 3)
            output = _put(s.output, output_gate * (1 - tanh_c * tanh_c), t)
            new_cells.append((x, new_c))
            new_stored.append(_Stored(factors, output, _put(s.forget, forget_gate, t), _put(s.hidden, x, t + 1)))
        return tuple(new_cells), tuple(new_stored), projected

    stored, projected = buffers
    stored = tuple(_Stored(s.gates, s.output, s.forget, _put(s.hidden, h, 0)) for s, (h, _) in zip(stored, state))
    _, stored, projected = lax.fori_loop(0, steps, forward, (state, stored, projected))

    ones = jnp.ones(block, dtype)
    is_output = lax.broadcasted_iota(jnp.int32, (4, 1, 1), 0) == 3

    def backward(k, carry):
        # `adjoints`: of h and c of every layer. `stored` and `projected` pass through unchanged, to stay in place.
        gradient, adjoints, stored, projected = carry
        t = steps - 1 - k
        last = _at(stored[-1].hidden, t + 1)
        _, pull = jax.vjp(postprocess, network.readout(last))
        (w,) = pull(_at(cotangents, t))
        from_above = network.readout_weight[:, None] * w[None, :]
        terms, new_adjoints = [], []  # last layer first
        for layer in reversed(range(num_layers)):
            cell, s = network.cells[layer], stored[layer]
            size = cell.input_size
            dh, dc = adjoints[layer]
            dh = dh + from_above
            dc = dc + dh * _at(s.output, t)
            du = _at(s.gates, t) * jnp.where(is_output, dh[None], dc[None])
            du = du.reshape(4 * cell.hidden_size, block)
            below = features if projected is None else projected
            x = _at(stored[layer - 1].hidden, t + 1) if layer else _at(below, t)
            inputs = jnp.concatenate([x, _at(s.hidden, t)])
            terms = [du @ inputs.T, du @ ones, *terms]
            if layer or projected is not None:
                dinputs = cell.weight.T @ du
                from_above, dh = dinputs[:size], dinputs[size:]
            else:  # the features are constants
                dh = cell.weight[:, size:].T @ du
            new_adjoints = [(dh, dc * _at(s.forget, t)), *new_adjoints]
        terms += [last @ w, jnp.sum(w)]
        if projected is not None:
            du = from_above * jnp.minimum(_at(projected, t) + 1, 1)  # ELU' from ELU: exp(u) = ELU + 1 below 0
            terms += [du @ _at(features, t).T, du @ ones]
        return [a + b for a, b in zip(gradient, terms)], tuple(new_adjoints), stored, projected

    adjoints = jax.tree.map(jnp.zeros_like, state)
    gradient, _, stored, projected = lax.fori_loop(0, steps, backward, (gradient, adjoints, stored, projected))
    return gradient, (stored, projected)


def _arrays(network: Any) -> list[Any]:
    """The weights of the network, in the order in which `_block_gradient` computes their gradients."""
    leaves = [x for cell in network.cells for x in (cell.weight, cell.bias)]
    leaves += [network.readout_weight, network.readout_bias]
    if network.projection_weight is not None:
        leaves += [network.projection_weight, network.projection_bias]
    return leaves
