"""Networks for classification: the interface, and multilayer perceptrons."""

import abc
import difflib
import itertools
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._arrays import as_float_array, check_positive_int, default_float, is_concrete

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
}


Layer = dict[str, Float[Array, "..."]]
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
        near = difflib.get_close_matches(str(activation).lower(), ACTIVATIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.{hint}")
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
    >>> from nestax import problems
    >>> params = problems.MLP(hidden=(20,), init_scale=None).init(jax.random.key(0), (28, 28), 10)
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
        self.hidden = tuple(check_positive_int(width, "hidden[i]") for width in hidden)
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
            z = activation(site(f"layer{i}", z) @ layer["weight"] + layer["bias"][None, :])
        return site(f"layer{len(params) - 1}", z) @ params[-1]["weight"] + params[-1]["bias"][None, :]


def mlp_orig() -> MLP:
    """One hidden layer of 20 sigmoid units: 15,910 parameters on MNIST. The standard optimizee of the literature."""
    return MLP(hidden=(20,), activation="sigmoid")


def mlp_relu() -> MLP:
    """`mlp_orig` with rectified linear units: 15,910 parameters on MNIST."""
    return MLP(hidden=(20,), activation="relu")


def mlp_deeper() -> MLP:
    """`mlp_orig` with two hidden layers of 20: 16,330 parameters on MNIST."""
    return MLP(hidden=(20, 20), activation="sigmoid")


def mlp_2d() -> MLP:
    """One hidden layer of 20 sigmoid units, initialized as in PyTorch: 102 parameters on points in the plane.

    The network for `nestax.data.circles` and `nestax.data.spirals`, and large enough for both: with the default data,
    20,000 steps of Adam (learning rate 0.01, batches of 128) classify every point of the spirals rightly with a loss of
    1e-5, while gradient descent at learning rate 3 is still at 3e-3.
    """
    return MLP(hidden=(20,), activation="sigmoid", init_scale=None)
