"""Rules for when a loss guard decides, and on how many validation batches."""

import abc
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._candidates import check_positive
from ._comparison import Moments

Undecided = Literal["mean", "fallback"]


class Comparison(eqx.Module):
    """What the validation batches say of the two candidates."""

    moments: Moments
    num_used: Int[Array, ""]  # pieces' worth of batches
    decided: Bool[Array, ""]


class AbstractRule(eqx.Module):
    """When a `LossGuard` decides: in blocks of one or more pieces of `num_steps` updates.

    Each piece brings `num_batches` validation batches with it. The guard makes `max_multiple` pieces per step, and
    ends a block with the step at the latest.
    """

    num_steps: eqx.AbstractVar[int]
    num_batches: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def max_multiple(self) -> int:
        """The longest block, in pieces."""

    @property
    @abc.abstractmethod
    def margin(self) -> float | Float[Array, ""]:
        """The number of standard errors by which the proposal has to be better."""

    @abc.abstractmethod
    def compare(
        self, losses: Callable[[Int[Array, ""]], Float[Array, "num 2"]], num_pieces: Int[Array, ""], dtype: Any
    ) -> Comparison:
        """Compares the candidates of a block; `losses(i)` are both candidates' on the batches of its piece `i`."""

    @abc.abstractmethod
    def next_multiple(
        self, multiple: Int[Array, ""], num_pieces: Int[Array, ""], comparison: Comparison
    ) -> Int[Array, ""]:
        """The length of the next block, in pieces, after one that was to have `multiple` and had `num_pieces`."""


class Blocks(AbstractRule):
    """Decides after every `num_steps` updates on `num_batches` validation batches.

    **Arguments:**

    - `num_steps`: updates per decision. Default 10, as published: a learned optimizer may first raise the loss for a
      few steps.
    - `num_batches`: validation batches per decision. Default 10, as published: with too few, noise decides. Where the
      loss is deterministic one is evaluated, whatever the number.

    **Raises** `ValueError` for numbers below 1.
    """

    num_steps: int = eqx.field(static=True)
    num_batches: int = eqx.field(static=True)

    def __init__(self, num_steps: int = 10, num_batches: int = 10):
        check_positive(num_steps=num_steps, num_batches=num_batches)
        self.num_steps, self.num_batches = num_steps, num_batches

    @property
    def max_multiple(self) -> int:
        return 1

    @property
    def margin(self) -> float:
        return 0.0

    def compare(self, losses, num_pieces, dtype):
        del num_pieces, dtype
        return Comparison(Moments.of(losses(jnp.array(0))), jnp.array(1), jnp.array(True))

    def next_multiple(self, multiple, num_pieces, comparison):
        return multiple


class AdaptiveBlocks(AbstractRule):
    r"""Blocks that grow while the comparison is undecided: precision is bought where it is needed.

    A block of $c$ pieces lasts $c\,n$ updates and may use $c\,m$ validation batches, with $n$ = `num_steps`,
    $m$ = `num_batches` and a multiple $c$ that starts at 1. At its end the candidates are compared on $m$ batches at a
    time until the paired difference $D_j = f_{V_j}(y) - f_{V_j}(z)$ is `width` standard errors away from zero, or all
    are used. If it is still undecided then, `undecided` says who wins, and the next block is `factor` times as long, up
    to `max_multiple`; if a block `factor` times shorter would have done, the next one is. So a clear decision costs few
    losses, and near a minimum, where noise would decide, blocks are long. $n/m$ is constant, and so is the bound on the
    cost per update.

    A step of the guard is `max_multiple * num_steps` updates, 100 by default. Its last block ends with it.

    **Arguments:**

    - `num_steps`: default 10.
    - `num_batches`: at least 2, for a standard error. Default 10.
    - `width`: standard errors that count as decided. Default 2.
    - `factor`: default 2.
    - `max_multiple`: default 10, so that a block has at most 100 updates and 100 batches.
    - `undecided`: the winner where the comparison stays undecided: `"mean"` (default, as published without a test), the
      lower mean loss; `"fallback"`, the fallback, so that the proposal has to be better beyond noise. That is steadier
      near a minimum, and takes fewer of a learned optimizer's steps where they are as good.

    **Raises** `ValueError` for numbers below 1, fewer than 2 batches, a `width` of 0 or less, a `factor` below 2,
    another `undecided`.

    **Source:** Premont-Schwarz et al. (2022), section 4.2, proposes to lengthen both when the intervals of one standard
    deviation overlap. **Deviations:** paired differences and their standard error, which see smaller differences on the
    same batches; the sequential stop; the way back to shorter blocks.
    """

    num_steps: int = eqx.field(static=True)
    num_batches: int = eqx.field(static=True)
    width: Float[Array, ""]
    factor: int = eqx.field(static=True)
    longest: int = eqx.field(static=True)
    undecided: Undecided = eqx.field(static=True)

    def __init__(
        self,
        num_steps: int = 10,
        num_batches: int = 10,
        *,
        width: float | Float[Array, ""] = 2.0,
        factor: int = 2,
        max_multiple: int = 10,
        undecided: Undecided = "mean",
    ):
        check_positive(num_steps=num_steps, num_batches=num_batches, factor=factor, max_multiple=max_multiple)
        if num_batches < 2 or factor < 2:
            raise ValueError(
                "`num_batches` must be at least 2 (one batch has no standard error) and `factor` at least 2, got "
                f"{num_batches} and {factor}."
            )
        if isinstance(width, int | float) and not width > 0:
            raise ValueError(f"`width` must be positive, got {width}.")
        if undecided not in get_args(Undecided):
            raise ValueError(f"`undecided` must be 'mean' or 'fallback', got {undecided!r}.")
        self.num_steps, self.num_batches = num_steps, num_batches
        self.factor, self.longest, self.undecided = factor, max_multiple, undecided
        self.width = jnp.asarray(width, float)

    @property
    def max_multiple(self) -> int:
        return self.longest

    @property
    def margin(self) -> float | Float[Array, ""]:
        return self.width if self.undecided == "fallback" else 0.0

    def compare(self, losses, num_pieces, dtype):
        def undecided(carry):
            moments, used = carry
            return (used < num_pieces) & ((used == 0) | ~self._decided(moments))

        def more(carry):
            moments, used = carry
            return moments.merge(Moments.of(losses(used))), used + 1

        moments, used = jax.lax.while_loop(undecided, more, (Moments.none(dtype), jnp.zeros_like(num_pieces)))
        return Comparison(moments, used, self._decided(moments))

    def _decided(self, moments: Moments) -> Bool[Array, ""]:
        """Also where a loss is not finite: more batches would not change that."""
        width = self.width.astype(moments.means.dtype)
        clear = jnp.abs(moments.means[2]) >= width * moments.standard_errors()[2]
        return clear | ~jnp.isfinite(moments.means[2])

    def next_multiple(self, multiple, num_pieces, comparison):
        whole = num_pieces == multiple  # not cut short by the end of the step: then it says nothing of longer ones
        longer = jnp.where(whole, jnp.minimum(multiple * self.factor, self.longest), multiple)
        enough = comparison.num_used * self.factor <= num_pieces
        shorter = jnp.where(enough, jnp.maximum(num_pieces // self.factor, 1), multiple)
        return jnp.where(comparison.decided, jnp.minimum(shorter, multiple), longer)


def check_rule(rule: Any) -> AbstractRule:
    """`rule`, or `ValueError` unless it is one."""
    if isinstance(rule, AbstractRule):
        return rule
    raise ValueError(f"`rule` must be `Blocks(...)` or `AdaptiveBlocks(...)` of `nestax.guards`, got {rule!r}.")
