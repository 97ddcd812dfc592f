"""The comparison of two candidates: their validation losses, the verdict, and a watch on the fallback."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._gradients import evaluate_losses
from .._problem import AbstractProblem, Players, Sample
from .._tree import common_dtype

PATIENCE = 10
"""Consecutive blocks in which the fallback made the loss worse before a run is reported."""

VALIDATION_CHUNK = 16
"""Validation batches evaluated at once, so that many of them need bounded memory."""


class Decision(eqx.Module):
    """A decision of a loss guard and its grounds, in `StepInfo.aux`: one per step, or per piece of `AdaptiveBlocks`.

    With more than one piece per step there is a leading axis of pieces, each with the decision that ended its block.
    All entries are floating-point, so that a record of many steps holds means.

    - `accepted`: 1.0 where the guarded optimizer's proposal was accepted, 0.0 where the fallback's candidate was taken.
    - `losses`: the mean validation losses of both candidates, the proposal's first; `inf` for one that failed.
    - `standard_error`: of the difference of both, from the paired differences on the validation batches; 0 for one.
    - `num_steps`: updates in the block that the decision ended.
    """

    accepted: Float[Array, "*pieces"]
    losses: Float[Array, "*pieces 2"]
    standard_error: Float[Array, "*pieces"]
    num_steps: Float[Array, "*pieces"]


class Moments(eqx.Module):
    """Sample moments of paired losses: what is needed of any number of validation batches."""

    count: Float[Array, ""]
    means: Float[Array, "3"]  # of the proposal's losses, the fallback's, and their difference
    squares: Float[Array, "3"]  # sums of squared deviations from these means

    @staticmethod
    def of(losses: Float[Array, "num 2"]) -> "Moments":
        values = jnp.concatenate([losses, losses[:, :1] - losses[:, 1:]], axis=1)
        means = values.mean(axis=0)
        return Moments(jnp.asarray(len(losses), losses.dtype), means, ((values - means[None]) ** 2).sum(axis=0))

    @staticmethod
    def none(dtype: Any) -> "Moments":
        return Moments(jnp.zeros((), dtype), jnp.zeros(3, dtype), jnp.zeros(3, dtype))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both samples together (Chan et al., 1979)."""
        count = self.count + other.count
        shift = other.means - self.means
        means = self.means + shift * (other.count / count)
        squares = self.squares + other.squares + shift**2 * (self.count * other.count / count)
        return Moments(count, means, squares)

    def standard_errors(self) -> Float[Array, "3"]:
        return jnp.sqrt(self.squares / (jnp.maximum(self.count - 1, 1) * self.count))


class Verdict(eqx.Module):
    """The outcome of a comparison."""

    decision: Decision
    accept: Bool[Array, ""]
    failed: Bool[Array, ""]  # neither loss is finite
    loss: Float[Array, ""]  # of the accepted candidate
    deviation: Float[Array, ""]  # standard error of the fallback's mean loss


def judge(
    moments: Moments, finite: Bool[Array, "2"], num_steps: int | Int[Array, ""], margin: float | Float[Array, ""] = 0.0
) -> Verdict:
    """Accepts the proposal where its mean loss is lower by more than `margin` standard errors of the
    difference; a loss that is not finite loses."""
    means = jnp.where(finite & jnp.isfinite(moments.means[:2]), moments.means[:2], jnp.inf)
    errors = moments.standard_errors()
    both = jnp.isfinite(means).all()
    by = jnp.where(both, jnp.asarray(margin, means.dtype) * errors[2], 0)
    accept = means[0] < means[1] - by
    error = jnp.where(both, errors[2], jnp.inf)
    decision = Decision(accept.astype(means.dtype), means, error, jnp.asarray(num_steps, means.dtype))
    deviation = jnp.where(jnp.isfinite(means[1]), errors[1], 0)
    loss = jnp.where(accept, means[0], means[1])
    return Verdict(decision, accept, ~jnp.isfinite(means).any(), loss, deviation)


class FallbackWatch(eqx.Module):
    """Watches whether the fallback alone makes things worse: its loss against the one at the start of the block."""

    loss: Float[Array, ""]  # validation loss of the accepted candidate of the block before
    deviation: Float[Array, ""]  # and the standard error of the fallback's
    rising: Int[Array, ""]  # consecutive blocks in which the fallback raised it by more than three standard errors
    longest: Int[Array, ""]  # the most of them so far

    def after(self, verdict: Verdict, own: bool = False) -> "FallbackWatch":
        """`own`: the fallback goes on from its own candidate, so that is what its next loss is compared with."""
        noise = jnp.sqrt(self.deviation**2 + verdict.deviation**2)
        rose = verdict.decision.losses[1] > self.loss + 3 * noise
        rising = jnp.where(rose, self.rising + 1, 0)
        loss = jnp.where(verdict.failed, self.loss, verdict.decision.losses[1] if own else verdict.loss)
        return FallbackWatch(loss, verdict.deviation, rising, jnp.maximum(self.longest, rising))

    def messages(self) -> tuple[str, ...]:
        if int(self.longest) < PATIENCE:
            return ()
        return (
            f"The guard's fallback raised the loss in {int(self.longest)} blocks in a row, so it protects against "
            "nothing there. Its learning rate is probably too large for this problem: lower it.",
        )


def fresh_watch(dtype: Any) -> FallbackWatch:
    """At the start of a run, when there is no loss to compare with yet."""
    nothing = jnp.zeros((), dtype)
    return FallbackWatch(nothing + jnp.inf, nothing, jnp.array(0), jnp.array(0))


def validation_losses(
    problem: AbstractProblem, proposal: Players, fallback: Players, samples: Sample, num: int
) -> Float[Array, "num 2"]:
    """The losses of both candidates on the same `num` samples, which are drawn once."""

    def both(sample):
        losses = jnp.stack([evaluate_losses(problem, players, sample)[0] for players in (proposal, fallback)])
        return losses.astype(common_dtype(losses, jnp.float32))

    if not jax.tree.leaves(samples):  # deterministic: all samples are alike
        return jnp.broadcast_to(both(samples)[None], (num, 2))
    return jax.lax.map(both, samples, batch_size=min(num, VALIDATION_CHUNK))


def loss_dtype(problem: AbstractProblem, players: Players) -> Any:
    """The dtype in which losses are compared: that of the first loss, float32 at least."""
    sample = jax.eval_shape(lambda: problem.samples(jax.random.key(0), 1))
    sample = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), sample)
    return common_dtype(jax.eval_shape(problem.losses, players, sample)[0], jnp.float32)
