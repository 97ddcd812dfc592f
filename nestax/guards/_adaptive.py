"""LGL2O with blocks that grow while the comparison is undecided."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._rollout import select
from ._candidates import Candidate, OnAccept, OnReject, Pair, check_positive
from ._decision import FallbackWatch, Moments, Verdict, fresh_watch, judge, loss_dtype, validation_losses
from ._loss_guard import accepted_players

Undecided = Literal["mean", "fallback"]


class AdaptiveState(eqx.Module):
    """A block under way: its start, both candidates, and the validation samples that it has gathered."""

    before: tuple[PyTree, PyTree]
    candidates: tuple[Candidate, Candidate]
    multiple: Int[Array, ""]  # length of this block, in `num_steps`
    position: Int[Array, ""]  # how much of it is done
    gathered: Sample
    initial: PyTree
    watch: FallbackWatch
    losses: Float[Array, "1"]  # at the start of the block
    verdict: Verdict  # of the last decision


class AdaptiveLossGuard(AbstractOptimizer):
    r"""`LossGuard` that buys precision only where it is needed.

    A block lasts $c\,n$ updates and may use $c\,m$ validation batches, with $n$ = `num_steps`, $m$ = `num_batches` and
    a multiple $c$ that starts at 1. At its end the candidates are compared on $m$ batches at a time until the paired
    difference $D_j = f_{V_j}(y) - f_{V_j}(z)$ is `width` standard errors away from zero, or all are used. If it is
    still undecided then, the sign of its mean decides, or the fallback is taken (`undecided`), and the next block is
    `factor` times as long, up to `max_multiple`; if a block `factor` times shorter would have done, the next one is. So
    a clear decision costs few losses, and near a minimum, where noise would decide, blocks are long. $n/m$ is constant,
    and so is the bound on the cost per update.

    One step is $n$ updates of both candidates. Between decisions the players stay at the last accepted iterate.

    **Arguments:** as for `LossGuard`, and

    - `num_batches`: at least 2, for a standard error. Default 10.
    - `width`: standard errors that count as decided. Default 2.
    - `factor`: default 2.
    - `max_multiple`: default 16, so that a block has at most 160 updates.
    - `undecided`: what wins where the comparison stays undecided: `"mean"` (default, as published without a test), the
      lower mean loss; `"fallback"`, the fallback, so that the learned optimizer has to be better beyond noise. That is
      steadier near a minimum, and takes fewer of the learned optimizer's steps where they are as good.

    The state holds both candidates and up to `max_multiple * num_batches` validation samples: keys where batches are
    drawn on the device, whole batches where the host streams them.

    **Raises** `ValueError` as `LossGuard`, for fewer than 2 batches, a `width` of 0 or less, a `factor` below 2,
    another `undecided`.

    **Source:** Premont-Schwarz et al. (2022), section 4.2, proposes to lengthen both when the intervals of one standard
    deviation overlap. Deviations: paired differences and their standard error, which see smaller differences on the
    same batches; the sequential stop; the way back to shorter blocks.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Classifier(nx.data.digits(), nx.networks.MLP())
    >>> learned = nx.learned.RNNprop(key=jax.random.key(0))
    >>> guard = nx.guards.AdaptiveLossGuard(learned, nx.optimizers.sgd(0.3), num_steps=5, num_batches=5)
    >>> solution = nx.solve(problem, guard, num_steps=100, key=jax.random.key(1))
    >>> bool((solution.info.aux.num_steps[-1] % 5) == 0)
    True

    ```
    """

    pair: Pair
    num_steps: int = eqx.field(static=True)
    num_batches: int = eqx.field(static=True)
    factor: int = eqx.field(static=True)
    max_multiple: int = eqx.field(static=True)
    undecided: Undecided = eqx.field(static=True)
    width: Float[Array, ""]

    def __init__(
        self,
        optimizer: AbstractOptimizer | optax.GradientTransformation,
        fallback: AbstractOptimizer | optax.GradientTransformation,
        num_steps: int = 10,
        num_batches: int = 10,
        on_reject: OnReject = "keep",
        on_accept: OnAccept = "count",
        *,
        width: float | Float[Array, ""] = 2.0,
        factor: int = 2,
        max_multiple: int = 16,
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
        self.pair = Pair(optimizer, fallback, on_reject, on_accept)
        self.num_steps, self.num_batches = num_steps, num_batches
        self.factor, self.max_multiple, self.undecided = factor, max_multiple, undecided
        self.width = jnp.asarray(width, float)
        self.pair.samples(num_steps)  # raises where an optimizer's own blocks do not fit

    @property
    def samples_per_step(self) -> int:
        return self.pair.samples(self.num_steps) + self.num_batches

    @property
    def updates_per_step(self) -> int:
        return self.num_steps

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> AdaptiveState:
        before = self.pair.init(problem, players, key)
        dtype = loss_dtype(problem, players)
        gathered = jax.tree.map(
            lambda x: jnp.broadcast_to(x[None], (self.max_multiple, *x.shape)), problem.samples(key, self.num_batches)
        )
        nothing = judge(Moments.of(jnp.zeros((1, 2), dtype)), jnp.array([True, True]), 0)
        return AdaptiveState(
            before,
            self.pair.start(players, before),
            jnp.array(1),
            jnp.array(0),
            gathered,
            before[0] if self.pair.on_reject == "reset" else None,
            fresh_watch(dtype),
            jnp.zeros(1, dtype),
            nothing,
        )

    def step(
        self, problem: AbstractProblem, players: Players, state: AdaptiveState, samples: Sample
    ) -> tuple[Players, AdaptiveState, StepInfo]:
        split = self.pair.samples(self.num_steps)
        training = jax.tree.map(lambda x: x[:split], samples)
        gathered = jax.tree.map(
            lambda all, x: jax.lax.dynamic_update_index_in_dim(all, x[split:], state.position, 0),
            state.gathered,
            samples,
        )
        candidates, made = self.pair.advance(
            problem, state.candidates, training, self.num_steps, state.verdict.use_learned
        )
        losses = jnp.where(state.position == 0, made.losses, state.losses)
        position = state.position + 1
        ends = position == state.multiple
        moments, used, decided = self._validate(problem, candidates, gathered, jnp.where(ends, position, 0))
        finite = jnp.stack([c.finite for c in candidates])
        margin = self.width if self.undecided == "fallback" else 0.0
        verdict = judge(moments, finite, state.multiple * self.num_steps, margin)
        verdict = select(ends, verdict, state.verdict)

        accepted = accepted_players(verdict, candidates)
        states = self.pair.states(verdict.use_learned, state.before, candidates, state.initial)
        longer = jnp.minimum(state.multiple * self.factor, self.max_multiple)
        shorter = jnp.where(used * self.factor <= state.multiple, state.multiple // self.factor, state.multiple)
        fresh = AdaptiveState(
            states,
            self.pair.start(accepted, states, self.pair.own_runs(accepted, candidates)),
            jnp.where(decided, jnp.maximum(shorter, 1), longer),
            jnp.zeros_like(position),
            gathered,
            state.initial,
            state.watch.after(verdict, self.pair.on_accept == "own"),
            losses,
            verdict,
        )
        under_way = AdaptiveState(
            state.before,
            candidates,
            state.multiple,
            position,
            gathered,
            state.initial,
            state.watch,
            losses,
            state.verdict,
        )
        players, state = select(ends, (accepted, fresh), (players, under_way))
        cost = made.cost + Cost(losses=2 * self.num_batches * used)
        info = StepInfo(losses, cost, state.verdict.decision)
        return players, state, info

    def _validate(
        self, problem: AbstractProblem, candidates: tuple[Candidate, Candidate], gathered: Sample, limit: Int[Array, ""]
    ) -> tuple[Moments, Int[Array, ""], Array]:
        """Compares both on up to `limit` chunks of samples, until decided.

        **Returns** the moments, how many chunks were used, and whether the comparison is decided.
        """

        def undecided(carry):
            moments, used = carry
            return (used < limit) & ((used == 0) | ~self._decided(moments))

        def more(carry):
            moments, used = carry
            chunk = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, used, keepdims=False), gathered)
            learned, fallback = (candidate.players for candidate in candidates)
            losses = validation_losses(problem, learned, fallback, chunk, self.num_batches)
            return moments.merge(Moments.of(losses)), used + 1

        dtype = loss_dtype(problem, candidates[0].players)
        moments, used = jax.lax.while_loop(undecided, more, (Moments.none(dtype), jnp.zeros_like(limit)))
        return moments, used, self._decided(moments)

    def _decided(self, moments: Moments) -> Array:
        """Also where a loss is not finite: more batches would not change that."""
        width = self.width.astype(moments.means.dtype)
        clear = jnp.abs(moments.means[2]) >= width * moments.standard_errors()[2]
        return clear | ~jnp.isfinite(moments.means[2])

    def diagnose(self, state: AdaptiveState) -> tuple[str, ...]:
        return state.watch.messages()
