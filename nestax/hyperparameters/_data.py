"""Hyperparameters of the training data: importance of examples, distilled data, a learned augmentation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count
from .._tree import common_dtype
from ..data import Corpus, Dataset
from ..networks import UNet
from ._family import AbstractHyperparameters, Batch, Values, check_scalar


class ExampleWeights(AbstractHyperparameters):
    r"""A weight for every training example: $L_T = \frac1{|B|} \sum_{i \in B} \sigma(\lambda_i) \ell_i$.

    Tuned on clean validation data, it tells examples with wrong labels from others.

    **Arguments:** `initial`: $\lambda$ at the start. Default 0: every example counts one half.

    **Source:** L. Franceschi et al., *Forward and reverse gradient-based hyperparameter optimization*, ICML 2017,
    section 5.1 (data hyper-cleaning), where the weights are projected to [0, 1]; the sigmoid is that of A. Shaban et
    al., *Truncated back-propagation for bilevel optimization*, AISTATS 2019.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> train, valid = data.digits().split(1000)
    >>> problem = problems.NestedClassifier(train, valid, networks.MLP(()), hyperparameters.ExampleWeights())
    >>> problem.init(jax.random.key(0))[0].shape
    (1000,)

    ```
    """

    initial: Float[Array, ""]

    def __init__(self, initial: ArrayLike = 0.0):
        self.initial = check_scalar(initial, "initial")

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key
        num = len(check_images(data, type(self).__name__))
        return jnp.full((num,), self.initial.astype(common_dtype(weights)))

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        del key
        importance = jax.nn.sigmoid(values).at[batch.indices].get(mode="promise_in_bounds")
        before = jnp.ones_like(importance) if batch.importance is None else batch.importance
        return Batch(batch.inputs, batch.labels, batch.indices, before * importance)


class DistilledData(AbstractHyperparameters):
    """Training data as hyperparameters: a few made examples per class take the place of all training examples.

    Labels are fixed, `0, ..., num_classes - 1`, in turn; the hyperparameters are the inputs, of shape
    `(num_per_class × num_classes, *input_shape)`. Of the training data only shape and number of classes are used.

    **Arguments:**

    - `num_per_class`: default 1.
    - `initial`: every input at the start. Default 0, as published.

    **Raises** `ValueError` for anything else.

    **Source:** T. Wang et al., *Dataset distillation*, arXiv:1811.10959 (2018); in this form J. Lorraine, P. Vicol, D.
    Duvenaud, AISTATS 2020, section 5.3.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> train, valid = data.digits().split(1000)
    >>> problem = problems.NestedClassifier(train, valid, networks.MLP(()), hyperparameters.DistilledData())
    >>> problem.init(jax.random.key(0))[0].shape
    (10, 8, 8)

    ```
    """

    num_per_class: int = eqx.field(static=True)
    initial: Float[Array, ""]

    def __init__(self, num_per_class: int = 1, initial: ArrayLike = 0.0):
        self.num_per_class = count(num_per_class, "num_per_class")
        self.initial = check_scalar(initial, "initial")

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key
        data = check_images(data, type(self).__name__)
        shape = (self.num_per_class * data.num_classes, *data.input_shape)
        return jnp.full(shape, self.initial.astype(common_dtype(weights)))

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        del key
        indices = jnp.arange(values.shape[0], dtype=batch.indices.dtype)
        labels = indices % (values.shape[0] // self.num_per_class)
        return Batch(values.astype(batch.inputs.dtype), labels.astype(batch.labels.dtype), indices)


class LearnedAugmentation(AbstractHyperparameters):
    r"""A network that augments images: training sees $x + \tanh(U_\lambda(x, \xi))$ in the place of every image $x$.

    $U_\lambda$ is a `UNet` and $\xi$ a channel of noise: one normal number per image, the same in every pixel. The
    hyperparameters are its parameters, 6,659 for colour images.

    **Arguments:** `width`: of the `UNet`. Default 8, as published.

    **Raises** `ValueError` for a `width` that is not positive, or data that are not images with an even number of rows
    and columns.

    **Source:** J. Lorraine, P. Vicol, D. Duvenaud, AISTATS 2020, section 5.4 and figure 7.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> train, valid = data.digits().split(1000)
    >>> family = hyperparameters.LearnedAugmentation()
    >>> problem = problems.NestedClassifier(train, valid, networks.MLP(()), family, batch_size=4)
    >>> augmentation, _ = jax.eval_shape(problem.init, jax.random.key(0))
    >>> jax.eval_shape(family.augment, augmentation, train.images[:4], jax.random.key(1)).shape
    (4, 8, 8)

    ```
    """

    width: int = eqx.field(static=True)

    def __init__(self, width: int = 8):
        self.width = count(width, "width")

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        shape = check_images(data, type(self).__name__).input_shape
        if len(shape) not in (2, 3) or shape[0] % 2 or shape[1] % 2:
            raise ValueError(f"`LearnedAugmentation` needs images with even height and width, got shape {shape}.")
        params = self._network((*shape, 1)[2]).init(key)
        return jax.tree.map(lambda x: x.astype(common_dtype(weights)), params)

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        inputs = self.augment(values, batch.inputs, key)
        return Batch(inputs, batch.labels, batch.indices, batch.importance)

    def augment(
        self, values: Values, images: Float[Array, "batch ..."], key: PRNGKeyArray
    ) -> Float[Array, "batch ..."]:
        """`images`, of shape `(batch, height, width)` or with channels, as the network changes them."""
        z = images if images.ndim == 4 else images[..., None]
        z = z.astype(common_dtype(values))
        noise = jax.random.normal(key, (z.shape[0], 1, 1, 1), z.dtype)
        noisy = jnp.concatenate([z, jnp.broadcast_to(noise, (*z.shape[:3], 1))], axis=3)
        changed = z + jnp.tanh(self._network(z.shape[3])(values, noisy))
        return changed.reshape(images.shape).astype(images.dtype)

    def _network(self, channels: int) -> UNet:
        return UNet(channels + 1, channels, self.width)


def check_images(data: Dataset | Corpus, name: str) -> Dataset:
    """Raises `ValueError` for a text."""
    if not isinstance(data, Dataset):
        raise ValueError(f"`{name}` acts on the examples of a `nestax.data.Dataset`, got a {type(data).__name__}.")
    return data
