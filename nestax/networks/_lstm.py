"""A language model: an LSTM that predicts the next word."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import count
from .._gated import Gated, linear, parts, vector
from .._tree import default_float
from ._architecture import Site, unchanged

Params = PyTree[Float[Array, "..."]]
LSTMState = tuple[tuple[Float[Array, "batch width"], Float[Array, "batch width"]], ...]
"""Per layer, the hidden state $h$ and the cell state $c$."""


class LSTMLanguageModel(eqx.Module):
    r"""Layers of LSTM cells between a table of word vectors and, as output, the same table (tied embeddings).

    $$(i, f, g, o) = W x_t + b + U h_{t-1} + b', \quad c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh(g), \quad
    h_t = \sigma(o) \tanh(c_t)$$

    and $E h_t + b_o$ are the logits of the word that follows, with the table $E$ that also maps words to inputs. Two
    biases per layer, as in PyTorch. With the default sizes it has 13,280,400 parameters.

    Noise enters at the sites (see `AbstractArchitecture`) `"embedding"`, the table where words are looked up (not where
    logits are made); `"input"`, the word vectors; `"recurrent0"`, ..., the matrices $U$; `"hidden0"`, ..., the outputs
    of all layers but the last; `"output"`, those of the last. Sequences have the shape `(batch, time, width)`, so a
    mask that is constant along time is variational dropout.

    **Arguments:**

    - `vocabulary_size`: how many words. Default 10,000: the Penn Treebank.
    - `width`: of word vectors and layers. Default 650.
    - `num_layers`: default 2.

    **Raises** `ValueError` for anything but positive integers.

    **Source:** S. Hochreiter, J. Schmidhuber, *Long short-term memory*, Neural Computation 9 (1997), with forget gates.
    Sizes and variational dropout: Y. Gal, Z. Ghahramani, *A theoretically grounded application of dropout in recurrent
    neural networks*, NeurIPS 2016; tied embeddings: O. Press, L. Wolf, EACL 2017. Word vectors start uniform in ±0.1,
    the output bias at 0, all else as in PyTorch: uniform in $\pm 1/\sqrt{\texttt{width}}$.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from nestax import networks
    >>> model = networks.LSTMLanguageModel(vocabulary_size=20, width=4)
    >>> params = model.init(jax.random.key(0))
    >>> logits, state = model(params, jnp.zeros((3, 5), jnp.int32))
    >>> logits.shape
    (3, 5, 20)

    ```
    """

    vocabulary_size: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    num_layers: int = eqx.field(static=True)

    def __init__(self, vocabulary_size: int = 10_000, width: int = 650, num_layers: int = 2):
        self.vocabulary_size = count(vocabulary_size, "vocabulary_size")
        self.width = count(width, "width")
        self.num_layers = count(num_layers, "num_layers")

    def init(self, key: PRNGKeyArray) -> Params:
        dtype, n = default_float(), self.width
        table_key, *keys = jax.random.split(key, 1 + self.num_layers)

        def layer(key):
            shapes = {"input": (n, 4 * n), "recurrent": (n, 4 * n), "input_bias": (4 * n,), "recurrent_bias": (4 * n,)}
            bound = 1 / math.sqrt(n)
            return {
                name: jax.random.uniform(k, shape, dtype, -bound, bound)
                for k, (name, shape) in zip(jax.random.split(key, 4), shapes.items())
            }

        return {
            "embedding": jax.random.uniform(table_key, (self.vocabulary_size, n), dtype, -0.1, 0.1),
            "layers": tuple(layer(k) for k in keys),
            "output_bias": jnp.zeros(self.vocabulary_size, dtype),
        }

    def __call__(
        self, params: Params, tokens: Int[Array, "batch time"], site: Site = unchanged, state: LSTMState | None = None
    ) -> tuple[Float[Array, "batch time words"], LSTMState]:
        """The logits of the word after each of `tokens`, and the state after the last.

        `state`: that before the first word; `None` (default) is zero.
        """
        table = params["embedding"]
        dropped = parts(lambda t: site("embedding", t), table)
        z = site("input", linear(lambda t: t.at[tokens].get(mode="clip"), dropped))
        if state is None:
            zeros = jnp.zeros((tokens.shape[0], self.width), z.dtype)
            state = ((zeros, zeros),) * self.num_layers
        after = []
        for i, (layer, before) in enumerate(zip(params["layers"], state)):
            recurrent = parts(lambda u, i=i: site(f"recurrent{i}", u), layer["recurrent"])
            z, last = _lstm({**layer, "recurrent": recurrent}, z, before)
            z = site("output" if i == self.num_layers - 1 else f"hidden{i}", z)
            after.append(last)
        return _tied(table, z) + vector(params["output_bias"], 3), tuple(after)

    @property
    def weight_sites(self) -> tuple[str, ...]:
        """The sites at which parameters pass, which all examples share, and no activations of examples."""
        return ("embedding", *(f"recurrent{i}" for i in range(self.num_layers)))


def _tied(table: Array | Gated, z: Float[Array, "batch time width"]) -> Float[Array, "batch time words"]:
    """The product with the transposed table. Its gates are on the word vectors' units, which are inputs here."""
    if not isinstance(table, Gated):
        return z @ table.T
    return z @ table.weight.T + (z * table.gate[:, None, :]) @ table.response.T


def _lstm(params: Params, inputs: Array, state: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
    bias = vector(params["input_bias"], 3) + vector(params["recurrent_bias"], 3)
    driven = jnp.swapaxes(linear(lambda w: inputs @ w, params["input"]) + bias, 0, 1)

    def cell(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x + linear(lambda u: h @ u, params["recurrent"]), 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    state, outputs = jax.lax.scan(cell, state, driven)
    return jnp.swapaxes(outputs, 0, 1), state
