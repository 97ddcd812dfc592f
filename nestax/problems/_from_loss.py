"""A loss function as a problem."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import check_arrays, count, describe
from .._problem import AbstractProblem, Sample


class FromLoss(AbstractProblem):
    r"""Any loss function with its initial parameters, as a problem: no class to write.

    Its player is the pytree of the floating-point arrays of `params`. What else `params` holds (activation functions,
    integers) is kept beside them, so an Equinox module will do; `combine` puts both together again.

    **Arguments:**

    - `loss`: `loss(params)`, or `loss(params, sample)` where there are samples; returns a scalar, and with `has_aux` a
      pair of it and anything else. Pass the same
      function again rather than a new lambda, which would compile anew.
    - `params`: the initial point, and where every run starts.
    - `data`: a pytree of arrays with a leading axis of examples: a sample is then a batch of it, drawn on the device
      uniformly with replacement. Default `None`.
    - `batch_size`: examples per batch. Default `None`: all of `data`, and deterministic.
    - `sample`: instead of `data`, a function of a key that draws a sample; `lambda key: key` hands over the key itself.
      Default `None`.
    - `has_aux`: the loss returns a pair, whose second part is ignored by all but `aux`: a state that is not trained,
      such as that of batch norms, or metrics. Default `False`.

    **Raises** `ValueError` for parameters without floating-point arrays, data of unequal lengths, both `data` and
    `sample`, or a batch larger than the data.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> x, y = jnp.arange(8.0)[:, None], 3 * jnp.arange(8.0)
    >>> def loss(params, batch):
    ...     inputs, targets = batch
    ...     return jnp.mean((inputs @ params["w"] - targets) ** 2)
    >>> problem = nx.problems.FromLoss(loss, {"w": jnp.zeros(1)}, data=(x, y), batch_size=4)
    >>> solution = nx.solve(problem, nx.optimizers.adam(0.1), num_steps=300, key=jax.random.key(0))
    >>> [round(float(w), 2) for w in solution.players[0]["w"]]
    [3.0]

    ```
    """

    params: PyTree  # floating-point arrays
    buffers: PyTree  # other arrays
    data: PyTree
    loss: Callable[..., Any] = eqx.field(static=True)
    sample: Callable[[PRNGKeyArray], Any] | None = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    has_aux: bool = eqx.field(static=True)
    rest: tuple[Any, ...] = eqx.field(static=True)  # leaves that are no arrays
    structure: Any = eqx.field(static=True)

    def __init__(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        *,
        data: PyTree = None,
        batch_size: int | None = None,
        sample: Callable[[PRNGKeyArray], Any] | None = None,
        has_aux: bool = False,
    ):
        for name, value in (("loss", loss), ("sample", sample)):
            if not callable(value) and (name == "loss" or value is not None):
                raise ValueError(f"`{name}` must be a function, got {value!r}.")
        if data is not None and sample is not None:
            raise ValueError("Pass `data`, of which batches are drawn, or `sample`, which draws them, not both.")
        if data is None and batch_size is not None:
            raise ValueError(f"`batch_size` counts examples of `data`; got `batch_size={batch_size}` and no data.")
        numbers = float | np.ndarray | np.generic
        params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, numbers) else x, params)
        arrays, rest = eqx.partition(params, eqx.is_array)
        self.params, self.buffers = eqx.partition(arrays, eqx.is_inexact_array)
        if not jax.tree.leaves(self.params):
            raise ValueError(
                f"`params` must hold floating-point arrays, of which there is something to optimize; got "
                f"{describe(params)}."
            )
        if any(jnp.iscomplexobj(x) for x in jax.tree.leaves(self.params)):
            raise ValueError("`params` must be real; keep real and imaginary parts as two arrays.")
        check_arrays(data, "data")
        leaves, self.structure = jax.tree.flatten(rest)
        self.rest = tuple(leaves)
        self.loss, self.sample, self.has_aux = loss, sample, has_aux
        self.data = None if data is None else jax.tree.map(jnp.asarray, data)
        self.batch_size = None if batch_size is None else count(batch_size, "batch_size")
        if data is not None:
            sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(self.data)}
            if len(sizes) != 1 or sizes == {()}:
                raise ValueError(f"All arrays of `data` need one leading axis of examples, got {sorted(sizes)}.")
            ((num,),) = sizes
            if batch_size is not None and batch_size > num:
                raise ValueError(f"`batch_size` must be at most the {num} examples of `data`, got {batch_size}.")

    def init(self, key: PRNGKeyArray) -> tuple[PyTree]:
        del key
        return (self.params,)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return jax.random.split(key, num) if self.sample is not None or self.batch_size is not None else None

    def losses(self, players: tuple[PyTree], sample: Sample) -> tuple[Float[Array, ""]]:
        if self.sample is not None:
            return (self._evaluate(players[0], self.sample(sample))[0],)
        if self.data is None:
            return (self._evaluate(players[0])[0],)
        return (self._evaluate(players[0], self._batch(sample))[0],)

    def combine(self, player: PyTree) -> PyTree:
        """`params` as the loss receives them: a player, and all that is not trained."""
        return eqx.combine(player, self.buffers, jax.tree.unflatten(self.structure, self.rest))

    def full_loss(self, players: tuple[PyTree], data: PyTree = None) -> Float[Array, ""]:
        """The loss on all of `data` at once; default `None`: on the problem's own. Pass test data here."""
        return self._evaluate(players[0], self._all(data, "full_loss"))[0]

    def aux(self, players: tuple[PyTree], data: PyTree = None) -> Any:
        """What the loss returns beside its value on all of `data` at once; default `None`: the problem's own.

        **Raises** `ValueError` for a problem without `has_aux`.
        """
        if not self.has_aux:
            raise ValueError("`aux` needs a loss that returns a pair: pass `has_aux=True` to `FromLoss`.")
        if data is None and self.data is None and self.sample is None:
            return self._evaluate(players[0])[1]
        return self._evaluate(players[0], self._all(data, "aux"))[1]

    def _all(self, data: PyTree, what: str) -> PyTree:
        data = self.data if data is None else data
        if data is None:
            raise ValueError(f"`{what}` needs `data`: this problem holds none.")
        return data

    def _evaluate(self, player: PyTree, *sample: PyTree) -> tuple[Float[Array, ""], Any]:
        out = self.loss(self.combine(player), *sample)
        if not self.has_aux:
            return out, None
        if not isinstance(out, tuple) or len(out) != 2:
            raise ValueError(
                f"With `has_aux=True` the loss must return a pair, its value first, got {type(out).__name__}."
            )
        return out

    def _batch(self, key: Sample) -> PyTree:
        if self.batch_size is None:
            return self.data
        num = jax.tree.leaves(self.data)[0].shape[0]
        indices = jax.random.randint(key, (self.batch_size,), 0, num, jnp.int32)
        return jax.tree.map(lambda x: x.at[indices].get(mode="promise_in_bounds"), self.data)
