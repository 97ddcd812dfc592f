"""Batches from the host: any loader, as the samples of a problem."""

import dataclasses
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count, describe, is_concrete
from .._problem import AbstractProblem, Players, Sample


class FromHost(AbstractProblem):
    """A problem whose samples are batches that an iterator on the host yields: files, a PyTorch or a Grain loader.

    `solve` draws `ahead` batches at a time, and the next ones, on their way to the device, while these are worked on.
    Inside of compiled code, as in meta-training and under `vmap`, the host is called for them.

    **Arguments:**

    - `problem`: takes a batch as its `sample`, such as `FromLoss(loss, params, sample=lambda batch: batch)`.
    - `batches`: a function of an integer seed that returns an iterable of batches, such as a loader that shuffles by
      that seed. Then equal keys give equal runs, and runs can be resumed. When it ends, it is called with the next
      seed. Or an iterable, such as a loader: it goes on where it stopped, whatever the key, and is started anew when it
      ends; an iterator that cannot be started anew must not end.

      A batch is a pytree of arrays (NumPy's, PyTorch's on the CPU), each time of the same structure, shapes and dtypes.
    - `ahead`: batches at a time. Default 100: so many lie on the device twice.

    **Raises** `ValueError` for batches of other shapes than the first (drop an incomplete last one), an iterator
    without batches or that has ended, and `ahead` below 1.

    **Example:** batches that NumPy shuffles

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx, numpy as np
    >>> x = np.arange(8.0, dtype=np.float32)[:, None]
    >>> def batches(seed):
    ...     order = np.random.default_rng(seed).permutation(8)
    ...     return ((x[i], 3 * x[i, 0]) for i in order.reshape(2, 4))
    >>> def loss(params, batch):
    ...     inputs, targets = batch
    ...     return jnp.mean((inputs @ params["w"] - targets) ** 2)
    >>> problem = nx.problems.FromLoss(loss, {"w": jnp.zeros(1)}, sample=lambda batch: batch)
    >>> problem = nx.problems.FromHost(problem, batches)
    >>> solution = nx.solve(problem, nx.optimizers.adam(0.1), num_steps=300, key=jax.random.key(0))
    >>> [round(float(w), 2) for w in solution.players[0]["w"]]
    [3.0]

    ```
    """

    problem: AbstractProblem
    source: "_Source" = eqx.field(static=True)
    ahead: int = eqx.field(static=True)

    def __init__(self, problem: AbstractProblem, batches: Any, *, ahead: int = 100):  # not looked at: it may end
        single = isinstance(batches, jax.Array | np.ndarray) and batches.ndim == 0  # an `Iterable` in name
        if not callable(batches) and (single or not isinstance(batches, Iterable)):
            raise ValueError(
                f"`batches` must be a function of an integer seed, or an iterable, got {describe(batches)}."
            )
        self.problem = problem
        self.source = _Source(batches)
        self.ahead = count(ahead, "ahead")

    @property
    def max_samples(self) -> int:
        return self.ahead

    def init(self, key: PRNGKeyArray) -> Players:
        return self.problem.init(key)

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        return self.problem.losses(players, sample)

    def distances(self, players: Players) -> tuple[Float[Array, ""], ...]:
        return self.problem.distances(players)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        seed = jax.random.bits(key, (), jnp.uint32)
        if is_concrete(seed):
            return jax.tree.map(jnp.asarray, self.source.draw(int(seed), num))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num, *x.shape), x.dtype), self.source.like())

        def draw(seed: Any) -> PyTree:
            if not callable(self.source.batches):
                raise ValueError(
                    "Compiled code asks for batches, as in meta-training, so they must follow from a key: pass "
                    "`batches` as a function of an integer seed."
                )
            return self.source.draw(int(seed), num)

        return jax.pure_callback(draw, shapes, seed, vmap_method="sequential")


@dataclasses.dataclass(eq=False)
class _Source:
    """Where batches come from. One object, so that compiled programs know it again."""

    batches: Any  # which a check of its type would use up

    def __post_init__(self):
        self._like: PyTree = None  # of the first batch
        self._rest: Iterator[PyTree] | None = None  # of an iterable, which goes on
        self._turn = threading.Lock()  # what is drawn ahead, and what compiled code asks for
        self._seen: list[PyTree] = []  # batches that were drawn for their shapes only

    def draw(self, seed: int, num: int) -> PyTree:
        """`num` batches, stacked, as NumPy arrays."""
        with self._turn:
            if callable(self.batches) or self._rest is None:
                self._rest = self._begin(seed)
            rows = self._take(self._rest, num, seed)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    def _begin(self, seed: int) -> Iterator[PyTree]:
        made: Any = self.batches(seed) if callable(self.batches) else self.batches
        return iter(made)

    def like(self) -> PyTree:
        """Structure, shapes and dtypes of a batch; one is drawn for them."""
        if self._like is None:
            drawn = jax.tree.map(lambda x: x[0], self.draw(0, 1))
            self._seen += [] if callable(self.batches) else [drawn]
        return self._like

    def _take(self, iterator: Iterator[PyTree], num: int, seed: int) -> list[PyTree]:
        rows, self._seen, fresh = self._seen[:num], self._seen[num:], 0
        while len(rows) < num:
            try:
                rows.append(self._checked(next(iterator)))
                fresh = 0
            except StopIteration:
                fresh += 1
                if fresh > 1:
                    raise ValueError("`batches` yields none: it is empty, or an iterator that has ended.") from None
                seed = (seed + 1) % 2**32
                iterator = self._rest = self._begin(seed)
        return rows

    def _checked(self, batch: PyTree) -> PyTree:
        batch = jax.tree.map(_as_numpy, batch)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        self._like = like if self._like is None else self._like
        if like != self._like:
            raise ValueError(
                f"All batches must have the same structure, shapes and dtypes: the first has {_text(self._like)}, "
                f"another one {_text(like)}. Where the last batch of an epoch is smaller, let the loader drop it."
            )
        return batch


def _as_numpy(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))  # float32 unless float64 is enabled


def _text(like: PyTree) -> str:
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(like))
