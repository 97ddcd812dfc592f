"""Multinomial logistic regression with weight decay: the strongly convex member of the classifiers."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import is_concrete
from .._problem import AbstractProblem, Sample
from .._tree import as_float_array, common_dtype, default_float
from ..data import Dataset
from ._supervised import check_batch_size, cross_entropy, draw_batch, fraction_correct

Params = dict[str, Float[Array, "..."]]


class LogisticRegression(AbstractProblem):
    r"""Multinomial logistic regression with weight decay.

    $$f(W, b) = -\frac1n \sum_i \log \operatorname{softmax}(W^\top x_i + b)_{y_i}
    + \frac{\lambda}{2} (\|W\|^2 + \|b\|^2)$$

    Strongly convex with constant at least $\lambda$, smooth with constant at most
    $\lambda + \max_i (\|x_i\|^2 + 1) / 2$. Players are `({"weight": (features, classes), "bias": (classes,)},)`; `init`
    draws all from $N(0, 0.01^2)$, in the default dtype. The data are cast to the dtype of the parameters.

    **Arguments:**

    - `inputs`: floating-point array of shape `(num, ...)`, flattened to `(num, features)`. It is not standardized.
    - `labels`: integers of shape `(num,)`.
    - `l2`: $\lambda \ge 0$. Default 1e-3: enough for a unique minimum, too little to change the classifier much.
    - `batch_size`: `None` (default) is the whole sum, and deterministic: samples are `None`. With a number, a sample is
      a PRNG key that draws so many examples with replacement.
    - `num_classes`: `None` (default) means the largest label plus one.

    **Raises** `ValueError` for bad data (see `nestax.data.Dataset`), `l2` or `batch_size`.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, problems
    >>> digits = data.digits()
    >>> problem = problems.LogisticRegression(digits.inputs, digits.labels)
    >>> players = problem.init(jax.random.key(0))
    >>> players[0]["weight"].shape
    (64, 10)

    ```
    """

    dataset: Dataset
    l2: Float[Array, ""]
    batch_size: int | None = eqx.field(static=True)

    def __init__(
        self,
        inputs: ArrayLike,
        labels: ArrayLike,
        l2: ArrayLike = 1e-3,
        batch_size: int | None = None,
        num_classes: int | None = None,
    ):
        self.dataset = Dataset(inputs, labels, num_classes=num_classes)
        self.l2 = as_float_array(l2)
        self.batch_size = check_batch_size(batch_size)
        if self.l2.shape != () or (is_concrete(self.l2) and not 0 <= self.l2 < jnp.inf):
            raise ValueError(f"`l2` must be a finite number of at least 0, got {l2}.")

    def init(self, key: PRNGKeyArray) -> tuple[Params]:
        shape, dtype = (self.dataset.num_features, self.dataset.num_classes), default_float()
        weight_key, bias_key = jax.random.split(key)
        weight = 0.01 * jax.random.normal(weight_key, shape, dtype)
        return ({"weight": weight, "bias": 0.01 * jax.random.normal(bias_key, shape[1:], dtype)},)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return None if self.batch_size is None else jax.random.split(key, num)

    def losses(self, players: tuple[Params], sample: Sample) -> tuple[Float[Array, ""]]:
        if self.batch_size is None:
            return (self._loss(players[0], self.dataset.inputs, self.dataset.labels),)
        return (self._loss(players[0], *draw_batch(self.dataset, sample, self.batch_size)),)

    def full_loss(self, players: tuple[Params]) -> Float[Array, ""]:
        """The loss on all examples, with the penalty."""
        return self._loss(players[0], self.dataset.inputs, self.dataset.labels)

    def accuracy(self, players: tuple[Params]) -> Float[Array, ""]:
        """The fraction of all examples that are classified rightly."""
        return fraction_correct(_logits(players[0], self.dataset.inputs), self.dataset.labels)

    def _loss(
        self, params: Params, inputs: Float[Array, "batch features"], labels: Int[Array, " batch"]
    ) -> Float[Array, ""]:
        loss = cross_entropy(_logits(params, inputs), labels)
        squares = jnp.sum(params["weight"] ** 2) + jnp.sum(params["bias"] ** 2)
        return loss + self.l2.astype(loss.dtype) / 2 * squares.astype(loss.dtype)


def _logits(params: Params, inputs: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
    return inputs.astype(common_dtype(params)) @ params["weight"] + params["bias"][None, :]
