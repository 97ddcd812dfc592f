"""`Dataset`: labelled examples as two arrays on the device."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int32


class Dataset(eqx.Module):
    """Labelled examples for classification.

    Inputs are stored flat, one row per example, so that linear models and multilayer perceptrons need no reshape;
    `input_shape` keeps the shape of one example, and `images` restores it.

    **Arguments:**

    - `inputs`: floating-point array of shape `(num, ...)`. Images are scaled to [0, 1]; integers are refused, since
      bytes that were not scaled would train badly without a word. float32 for all built-in data, whatever the default
      precision: problems cast a batch to the dtype of the parameters when they use it.
    - `labels`: integers of shape `(num,)` in `0, ..., num_classes - 1`; stored as int32.
    - `name`: for messages and plots.
    - `num_classes`: `None` (default) means the largest label plus one.
    - `input_shape`: the shape of one example if `inputs` is flat already; `None` (default) means that of `inputs`.

    **Raises** `ValueError` for wrong shapes or dtypes, no examples, labels out of range, and NaN or infinite inputs
    (how many, and where the first is). Values are checked only where they are known, that is, not under `jax.jit`.

    **Example**

    ```python
    >>> from nestax import data
    >>> dataset = data.digits()
    >>> dataset.inputs.shape, dataset.images.shape, dataset.num_classes
    ((1797, 64), (1797, 8, 8), 10)
    >>> train, test = dataset.split(1500)
    >>> len(train), len(test)
    (1500, 297)

    ```
    """

    inputs: Float[Array, "num features"]
    labels: Int32[Array, " num"]
    name: str = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    input_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        inputs: ArrayLike,
        labels: ArrayLike,
        name: str = "unnamed",
        num_classes: int | None = None,
        input_shape: tuple[int, ...] | None = None,
    ):
        inputs, labels = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (inputs, labels))
        _check_dtypes(inputs, labels)
        _check_shapes(inputs, labels, input_shape)
        _check_finite(inputs)
        num_classes = _check_labels(labels, num_classes)
        self.input_shape = tuple(jnp.shape(inputs)[1:]) if input_shape is None else tuple(input_shape)
        self.inputs = jnp.asarray(inputs).reshape(jnp.shape(inputs)[0], math.prod(self.input_shape))
        self.labels = jnp.asarray(labels).astype(jnp.int32)
        self.name = name
        self.num_classes = num_classes

    def __len__(self) -> int:
        return self.labels.shape[-1]

    @property
    def num_features(self) -> int:
        """Numbers per example, the product of `input_shape`."""
        return math.prod(self.input_shape)

    @property
    def images(self) -> Float[Array, "num ..."]:
        """The inputs in their own shape, `(num, *input_shape)`."""
        return self.inputs.reshape(self.inputs.shape[0], *self.input_shape)

    def take(self, indices: slice | ArrayLike) -> "Dataset":
        """The examples at `indices`: a slice, or an array of integers or of booleans."""
        return self._replace(self.inputs[indices], labels=self.labels[indices])

    def split(self, num: int) -> tuple["Dataset", "Dataset"]:
        """The first `num` examples, and the rest. Published orders are shuffled already; nothing is shuffled here."""
        if not 0 < num < len(self):
            raise ValueError(f"`num` must leave examples on both sides, so lie in 1, ..., {len(self) - 1}; got {num}.")
        return self.take(slice(None, num)), self.take(slice(num, None))

    def average_pool(self, size: int) -> "Dataset":
        """Images made smaller by the mean over blocks of `size` × `size` pixels: 28×28 becomes 14×14 for `size=2`."""
        if len(self.input_shape) not in (2, 3):
            raise ValueError(f"`average_pool` needs images (height, width[, channels]), got shape {self.input_shape}.")
        height, width, *channels = self.input_shape
        if size < 1 or height % size or width % size:
            raise ValueError(f"`size` must divide the image size {height}×{width}, got {size}.")
        blocks = self.inputs.reshape(-1, height // size, size, width // size, size, *channels)
        pooled = blocks.mean(axis=(2, 4))
        return self._replace(pooled, input_shape=(height // size, width // size, *channels))

    def live_pixels(self) -> "Dataset":
        """Only the features that are not zero in every example: 61 of the 64 pixels of the digits.

        The weights of the others never receive a gradient. Inputs are flat afterwards. Not possible under `jax.jit`,
        since the number of features depends on the values. `split` afterwards, so that both parts keep the same ones.
        """
        inputs = self.inputs[:, np.any(np.asarray(self.inputs) != 0, axis=0)]
        return self._replace(inputs, input_shape=(inputs.shape[1],))

    def _replace(
        self, inputs: Array, labels: Array | None = None, input_shape: tuple[int, ...] | None = None
    ) -> "Dataset":
        return Dataset(
            inputs,
            self.labels if labels is None else labels,
            self.name,
            self.num_classes,
            self.input_shape if input_shape is None else input_shape,
        )


def _check_dtypes(inputs: Any, labels: Any) -> None:
    if not jnp.issubdtype(jnp.result_type(inputs), jnp.floating):
        raise ValueError(
            f"`inputs` must be real floating-point numbers, got dtype {jnp.result_type(inputs)}. Scale bytes to [0, 1] "
            "first, for example with `inputs / np.float32(255)`."
        )
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(
            f"`labels` must be integers, got dtype {jnp.result_type(labels)}. "
            "For one-hot labels pass `labels.argmax(-1)`."
        )


def _check_shapes(inputs: Any, labels: Any, input_shape: tuple[int, ...] | None) -> None:
    shape, labels_shape = jnp.shape(inputs), jnp.shape(labels)
    if len(shape) < 2 or len(labels_shape) != 1 or shape[0] != labels_shape[0]:
        raise ValueError(
            "`inputs` must have shape (num, ...) with at least one feature axis and `labels` shape (num,), got "
            f"{shape} and {labels_shape}."
        )
    if 0 in shape:
        raise ValueError(f"A dataset needs at least one example and one feature, got inputs of shape {shape}.")
    if input_shape is not None and math.prod(input_shape) != math.prod(shape[1:]):
        raise ValueError(f"`input_shape` {tuple(input_shape)} does not fit inputs of shape {shape}.")


def _check_finite(inputs: Any) -> None:
    if isinstance(inputs, jax.core.Tracer):
        return
    bad = ~np.isfinite(np.asarray(inputs))
    if bad.any():
        first = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        examples = int(bad.reshape(len(bad), -1).any(axis=1).sum())
        raise ValueError(
            f"`inputs` holds {int(bad.sum())} NaN or infinite numbers in {examples} of {len(bad)} examples, the first "
            f"at index {first}. Remove these examples or fill in the values."
        )


def _check_labels(labels: Any, num_classes: int | None) -> int:
    traced = isinstance(labels, jax.core.Tracer)
    if num_classes is None:
        if traced:
            raise ValueError("`num_classes` must be given where `labels` is traced (under `jax.jit` or `jax.vmap`).")
        num_classes = int(np.max(labels)) + 1
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be at least 1, got {num_classes}.")
    if not traced:
        values = np.asarray(labels)
        bad = (values < 0) | (values >= num_classes)
        if bad.any():
            raise ValueError(
                f"`labels` must lie in 0, ..., {num_classes - 1}, but {int(bad.sum())} of {bad.size} do not; the first "
                f"is {int(values[bad.argmax()])} at index {int(bad.argmax())}. Renumber them, or pass `num_classes`."
            )
    return num_classes
