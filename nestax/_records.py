"""The records of a long run: how it is cut into compiled calls, and how their infos become records."""

from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._optimizer import StepInfo, losses_per_update
from ._rollout import blank

CHUNK = 1_000
"""Steps per compiled call at most. Samples are drawn in chunks of it, so this number is part of what a seed means."""


def pieces(num_steps: int, per_record: int, per_callback: int | None, chunk: int = CHUNK) -> Iterator[int]:
    """Lengths of the compiled calls: at most `chunk` steps each, as long and as equal as possible.

    Each is a multiple of `per_record` steps or lies inside of one record. None goes beyond a callback.
    """
    whole = chunk // per_record * per_record  # zero for records longer than a chunk
    ends = [per_record] if not whole else []
    ends += [] if per_callback is None else [per_callback]
    done = 0
    while done < num_steps:
        size = min([whole or chunk, num_steps - done, *(end - done % end for end in ends)])
        yield size
        done += size


class Windows:
    """Rows that come piece by piece, joined to one row per window of `size`.

    `"sum"` adds them. `"mean"` averages floating-point rows, and of all others keeps the last one.
    """

    def __init__(self, size: int, how: Literal["mean", "sum"]):
        self.size, self.how = size, how
        self._kept: list[PyTree] = []
        self._open: list[tuple[PyTree, int]] = []  # of a window that is not complete: one row each, and their weights

    def add(self, rows: PyTree, num: int) -> None:
        """Adds `num` rows: a multiple of the window, or a part of one."""
        if num % self.size == 0:
            self._kept.append(rows if self.size == 1 else self._join(rows, self.size))
            return
        self._open.append((self._join(rows, num), num))
        if sum(n for _, n in self._open) == self.size:
            self.close()

    def close(self) -> None:
        """Makes a row of what an incomplete window holds."""
        if not self._open:
            return
        total = sum(n for _, n in self._open)

        def leaf(*rows):
            if self.how == "sum":
                return jnp.sum(jnp.stack(rows), axis=0)
            if not jnp.issubdtype(rows[0].dtype, jnp.inexact):
                return rows[-1]
            return jnp.sum(jnp.stack([row * (n / total) for row, (_, n) in zip(rows, self._open)]), axis=0)

        self._kept.append(jax.tree.map(leaf, *(row for row, _ in self._open)))
        self._open = []

    def fill(self, num: int) -> None:
        """Adds blank rows, as a rollout blanks its infos after a failure, until there are `num`."""
        leaves = jax.tree.leaves(self._kept[0])
        missing = num - sum(jax.tree.leaves(kept)[0].shape[0] for kept in self._kept) if leaves else 0
        if missing:
            blanks = jax.tree.map(lambda x: blank(jnp.zeros((missing, *x.shape[1:]), x.dtype)), self._kept[0])
            self._kept.append(blanks)

    def rows(self) -> PyTree:
        """All rows, stacked."""
        return self._kept[0] if len(self._kept) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *self._kept)

    def _join(self, rows: PyTree, size: int) -> PyTree:
        def leaf(x: Array) -> Array:
            x = x.reshape(-1, size, *x.shape[1:])
            if self.how == "sum":
                return x.sum(axis=1)
            return x.mean(axis=1) if jnp.issubdtype(x.dtype, jnp.inexact) else x[:, -1]

        return jax.tree.map(leaf, rows)


class Records:
    """The records of a run, of `record_every` updates each."""

    def __init__(self, record_every: int, updates_per_step: int):
        steps = max(record_every // updates_per_step, 1)
        self.updates = updates_per_step
        self.losses, self.cost, self.aux = Windows(record_every, "mean"), Windows(steps, "sum"), Windows(steps, "mean")

    def add(self, info: StepInfo, num_steps: int) -> Array:
        """Adds the infos of `num_steps` steps, stacked. **Returns** the losses of all their updates."""
        losses = losses_per_update(info, self.updates)
        self.losses.add(losses, num_steps * self.updates)
        self.cost.add(info.cost, num_steps)
        self.aux.add(info.aux, num_steps)
        return losses

    def finish(self, num_updates: int | None) -> StepInfo:
        """All records; with blank ones up to `num_updates`, if given."""
        for windows, rows in ((self.losses, 1), (self.cost, self.updates), (self.aux, self.updates)):
            windows.close()
            if num_updates is not None:
                windows.fill(num_updates // rows // windows.size)
        return StepInfo(self.losses.rows(), self.cost.rows(), self.aux.rows())


def record_sizes(num_steps: int, updates: int, record_every: int, callback_every: int | None) -> tuple[int, int | None]:
    """Steps per record and per callback; `ValueError` where they do not fit each other."""
    if num_steps % record_every or (record_every % updates and updates % record_every):
        several = "" if updates == 1 else f", and be a multiple or a divisor of the {updates} updates of a step"
        raise ValueError(f"`record_every` must divide the {num_steps} updates{several}; got {record_every}.")
    per_record = max(record_every // updates, 1)
    if callback_every is None:
        return per_record, None
    if callback_every % updates:
        raise ValueError(
            f"`callback_every` must be a multiple of the {updates} updates of a step, got {callback_every}."
        )
    per_callback = callback_every // updates
    if per_callback % per_record and per_record % per_callback:
        raise ValueError(
            f"One of `record_every` and `callback_every` must be a multiple of the other, got {record_every} and "
            f"{callback_every}."
        )
    return per_record, per_callback
