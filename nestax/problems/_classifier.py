"""Training a network to classify: any data set × any architecture."""

import abc
import difflib
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._problem import AbstractProblem, Sample, common_dtype
from ..data import Dataset
from ._arrays import as_float_array, check_positive_int, default_float, is_concrete
from ._supervised import check_batch_size, check_dataset, cross_entropy, draw_batch, fraction_correct

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
}


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
        self, params: PyTree[Float[Array, "..."]], inputs: Float[Array, "batch ..."]
    ) -> Float[Array, "batch classes"]:
        """The logits of a batch of inputs of shape `(batch, *input_shape)`."""


class MLP(AbstractArchitecture):
    r"""A multilayer perceptron on flattened inputs: $z \leftarrow \sigma(z W_l + b_l)$, without $\sigma$ at the end.

    Parameters are a tuple with `{"weight": (in, out), "bias": (out,)}` per layer. Weights **and biases** are drawn from
    $N(0, \texttt{init\_scale}^2)$, as in the learning-to-optimize literature.

    **Arguments:**

    - `hidden`: the widths of the hidden layers. Default `(20,)`; `()` is a linear classifier.
    - `activation`: `"sigmoid"` (default), `"relu"`, `"tanh"`, `"elu"` or `"softplus"`.
    - `init_scale`: standard deviation of the initial parameters. Default 0.01.

    **Raises** `ValueError` for anything else.

    **Source:** M. Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*, NeurIPS 2016,
    section 3.2, for the network with 20 hidden units; initialization and batches as in its published code.
    """

    hidden: tuple[int, ...] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    init_scale: Float[Array, ""]

    def __init__(self, hidden: Sequence[int] = (20,), activation: str = "sigmoid", init_scale: ArrayLike = 0.01):
        self.hidden = tuple(check_positive_int(width, "hidden[i]") for width in hidden)
        if activation not in ACTIVATIONS:
            near = difflib.get_close_matches(str(activation).lower(), ACTIVATIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.{hint}")
        self.activation = activation
        self.init_scale = as_float_array(init_scale)
        if self.init_scale.shape != () or (is_concrete(self.init_scale) and not 0 <= self.init_scale < jnp.inf):
            raise ValueError(f"`init_scale` must be a finite number of at least 0, got {init_scale}.")

    def init(
        self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int
    ) -> tuple[dict[str, Float[Array, "..."]], ...]:
        sizes = (math.prod(input_shape), *self.hidden, num_classes)
        dtype = default_float()
        scale = self.init_scale.astype(dtype)
        layers = []
        for layer_key, size_in, size_out in zip(jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:]):
            weight_key, bias_key = jax.random.split(layer_key)
            weight = scale * jax.random.normal(weight_key, (size_in, size_out), dtype)
            layers.append({"weight": weight, "bias": scale * jax.random.normal(bias_key, (size_out,), dtype)})
        return tuple(layers)

    def __call__(
        self, params: tuple[dict[str, Float[Array, "..."]], ...], inputs: Float[Array, "batch ..."]
    ) -> Float[Array, "batch classes"]:
        activation = ACTIVATIONS[self.activation]
        z = inputs.reshape(inputs.shape[0], -1)
        for layer in params[:-1]:
            z = activation(z @ layer["weight"] + layer["bias"][None, :])
        return z @ params[-1]["weight"] + params[-1]["bias"][None, :]


def mlp_orig() -> MLP:
    """One hidden layer of 20 sigmoid units: 15,910 parameters on MNIST. The standard optimizee of the literature."""
    return MLP(hidden=(20,), activation="sigmoid")


def mlp_relu() -> MLP:
    """`mlp_orig` with rectified linear units: 15,910 parameters on MNIST."""
    return MLP(hidden=(20,), activation="relu")


def mlp_deeper() -> MLP:
    """`mlp_orig` with two hidden layers of 20: 16,330 parameters on MNIST."""
    return MLP(hidden=(20, 20), activation="sigmoid")


class Classifier(AbstractProblem):
    r"""Training a network $F_\theta$ to classify, by the mean softmax cross-entropy.

    $$f(\theta) = -\frac1{|B|} \sum_{i \in B} \log \operatorname{softmax}(F_\theta(x_i))_{y_i}$$

    A sample is a PRNG key, and the batch $B$ that it stands for is drawn on the device, uniformly with replacement: the
    data are array leaves and never travel. They are cast to the dtype of the parameters batch by batch. Players are
    `(params,)`; the loss is in natural-logarithm units, $\ln 10 \approx 2.30$ for 10 classes at random.

    Pass a `Classifier` to a jitted function as an argument: in a closure its data would become a constant of the
    compiled program.

    **Arguments:**

    - `dataset`: a `nestax.data.Dataset`.
    - `architecture`: an `AbstractArchitecture`, such as `MLP()`.
    - `batch_size`: default 128, as everywhere in the learning-to-optimize literature. `None` is the whole data set at
      every step, and deterministic: samples are `None`.

    **Raises** `ValueError` for a bad `batch_size`, or objects of other types.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, problems
    >>> problem = problems.Classifier(data.digits(), problems.MLP(hidden=(20,)))
    >>> players = problem.init(jax.random.key(0))
    >>> round(float(problem.full_loss(players)), 2)
    2.3

    ```
    """

    dataset: Dataset
    architecture: AbstractArchitecture
    batch_size: int | None = eqx.field(static=True)

    def __init__(self, dataset: Dataset, architecture: AbstractArchitecture, batch_size: int | None = 128):
        if not isinstance(architecture, AbstractArchitecture):
            raise ValueError(
                "`architecture` must be an `AbstractArchitecture`, such as `MLP()`, "
                f"got a {type(architecture).__name__}."
            )
        self.dataset = check_dataset(dataset, dataset)
        self.architecture = architecture
        self.batch_size = check_batch_size(batch_size)

    def init(self, key: PRNGKeyArray) -> tuple[PyTree]:
        return (self.architecture.init(key, self.dataset.input_shape, self.dataset.num_classes),)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return None if self.batch_size is None else jax.random.split(key, num)

    def losses(self, players: tuple[PyTree], sample: Sample) -> tuple[Float[Array, ""]]:
        if self.batch_size is None:
            return (self.full_loss(players),)
        inputs, labels = draw_batch(self.dataset, sample, self.batch_size)
        return (cross_entropy(self.logits(players, inputs), labels),)

    def logits(self, players: tuple[PyTree], inputs: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """The network's logits for flat inputs, as they lie in a `Dataset`."""
        inputs = inputs.astype(common_dtype(players))
        return self.architecture(players[0], inputs.reshape(inputs.shape[0], *self.dataset.input_shape))

    def full_loss(self, players: tuple[PyTree], dataset: Dataset | None = None) -> Float[Array, ""]:
        """The mean loss over all examples of `dataset`; default `None`: the problem's own. Pass test data here."""
        dataset = self.dataset if dataset is None else check_dataset(dataset, self.dataset)
        return cross_entropy(self.logits(players, dataset.inputs), dataset.labels)

    def accuracy(self, players: tuple[PyTree], dataset: Dataset | None = None) -> Float[Array, ""]:
        """The fraction of examples of `dataset` (default `None`: the problem's own) that are classified rightly."""
        dataset = self.dataset if dataset is None else check_dataset(dataset, self.dataset)
        return fraction_correct(self.logits(players, dataset.inputs), dataset.labels)
