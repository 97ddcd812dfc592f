"""What supervised problems share: batches drawn on the device by key, and the softmax cross-entropy."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._checks import count
from .._problem import Sample
from ..data import Dataset


def draw_batch(
    dataset: Dataset, key: Sample, batch_size: int
) -> tuple[Float[Array, "batch features"], Int[Array, " batch"]]:
    """`batch_size` examples, drawn uniformly with replacement. The key alone fixes which, in every precision."""
    if key is None:
        raise ValueError(
            "A problem with a `batch_size` needs a PRNG key as its sample, got None. Use `problem.samples`."
        )
    indices = jax.random.randint(key, (batch_size,), 0, len(dataset), jnp.int32)
    inputs = dataset.inputs.at[indices].get(mode="promise_in_bounds")
    return inputs, dataset.labels.at[indices].get(mode="promise_in_bounds")


def cross_entropy(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, ""]:
    """The mean softmax cross-entropy in natural-logarithm units, computed in float32 or better."""
    if jnp.finfo(logits.dtype).bits < 32:
        logits = logits.astype(jnp.float32)
    # A one-hot product rather than `take_along_axis`, whose gradient is a scatter and slower on a CPU.
    one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return -jnp.sum(one_hot * jax.nn.log_softmax(logits)) / logits.shape[0]


def fraction_correct(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, ""]:
    """How many examples have their largest logit at their label, as a fraction."""
    return jnp.mean((jnp.argmax(logits, axis=1).astype(labels.dtype) == labels).astype(logits.dtype))


def check_batch_size(batch_size: int | None, num: int | None = None) -> int | None:
    """`batch_size` as an `int`, or `None`; `ValueError` for anything else, and for more than the `num` examples."""
    size = None if batch_size is None else count(batch_size, "batch_size")
    if size is not None and num is not None and size > num:
        raise ValueError(
            f"`batch_size` is {size}, but there are only {num} examples. Give at most so many, or None to take all of "
            "them at every step."
        )
    return size


def check_dataset(dataset: Any, expected: Dataset) -> Dataset:
    """Raises `ValueError` unless `dataset` has the example shape and the classes of `expected`."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"`dataset` must be a `nestax.data.Dataset`, got a {type(dataset).__name__}.")
    got, want = ((x.input_shape, x.num_classes) for x in (dataset, expected))
    if got != want:
        raise ValueError(
            f"`dataset` {dataset.name!r} has input shape and number of classes {got}, "
            f"but the problem was made for {want}."
        )
    return dataset
