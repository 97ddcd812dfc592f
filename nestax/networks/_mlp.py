"""Multilayer perceptrons."""

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import count
from ._architecture import (
    ACTIVATIONS,
    AbstractArchitecture,
    Layer,
    Site,
    affine,
    check_activation,
    check_init_scale,
    draw_layer,
    unchanged,
)


class MLP(AbstractArchitecture):
    r"""A multilayer perceptron on flattened inputs: $z \leftarrow \sigma(z W_l + b_l)$, without $\sigma$ at the end.

    Parameters are a tuple with `{"weight": (in, out), "bias": (out,)}` per layer. Weights **and biases** are drawn from
    $N(0, \texttt{init\_scale}^2)$, as in the learning-to-optimize literature, or as in PyTorch.

    **Arguments:**

    - `hidden`: the widths of the hidden layers. Default `(20,)`; `()` is a linear classifier.
    - `activation`: `"sigmoid"` (default), `"relu"`, `"tanh"`, `"elu"` or `"softplus"`.
    - `init_scale`: standard deviation of the initial parameters. Default 0.01. `None` is PyTorch's default for its
      linear layers instead: weights and biases uniform in $\pm 1/\sqrt n$, with the number $n$ of inputs of the layer.

    **Raises** `ValueError` for anything else.

    **Source:** M. Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*, NeurIPS 2016,
    section 3.2, for the network with 20 hidden units; initialization and batches as in its published code. For `None`:
    `torch.nn.Linear.reset_parameters`.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import networks
    >>> params = networks.MLP(hidden=(20,), init_scale=None).init(jax.random.key(0), (28, 28), 10)
    >>> [layer["weight"].shape for layer in params]
    [(784, 20), (20, 10)]
    >>> bool(abs(params[0]["weight"]).max() <= 1 / 28)
    True

    ```
    """

    hidden: tuple[int, ...] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    init_scale: Float[Array, ""] | None

    def __init__(self, hidden: Sequence[int] = (20,), activation: str = "sigmoid", init_scale: ArrayLike | None = 0.01):
        self.hidden = tuple(count(width, "hidden[i]") for width in hidden)
        self.activation = check_activation(activation)
        self.init_scale = check_init_scale(init_scale)

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> tuple[Layer, ...]:
        sizes = (math.prod(input_shape), *self.hidden, num_classes)
        keys = jax.random.split(key, len(sizes) - 1)
        return tuple(draw_layer(k, shape, self.init_scale) for k, shape in zip(keys, itertools.pairwise(sizes)))

    def __call__(
        self, params: tuple[Layer, ...], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        activation = ACTIVATIONS[self.activation]
        z = inputs.reshape(inputs.shape[0], -1)
        for i, layer in enumerate(params[:-1]):
            z = activation(affine(layer, site(f"layer{i}", z)))
        return affine(params[-1], site(f"layer{len(params) - 1}", z))

    def each(self) -> "MLP":
        return self
