"""LGL2O: of two candidates, keep the one with the lower validation loss."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._optimizer import AbstractOptimizer, Cost, StepInfo, losses_per_update
from .._problem import AbstractProblem, Players, Sample
from .._rollout import RESULTS, AbstractStep, rollout, select
from ..optimizers import as_gradient_optimizer, as_optimizer
from ._candidates import Pair, advance, begin, both, num_samples, own_runs, runners, states_after
from ._comparison import Decision, FallbackWatch, fresh_watch, judge, loss_dtype, validation_losses
from ._optax import in_a_loop
from ._policies import AbstractPolicy, Count, Keep, check_policy
from ._rules import AbstractRule, Blocks, check_rule


class LossGuardState(eqx.Module):
    """The state of a loss guard between its steps, when no block is under way."""

    states: Pair  # of both optimizers
    initial: Pair  # their first states, where a policy needs them
    alone: Pair  # players of the runs of their own, where a policy asks for one
    multiple: Int[Array, ""]  # pieces in the next block
    watch: FallbackWatch


class LossGuard(AbstractOptimizer):
    r"""LGL2O: an optimizer, learned or not, beside a fallback; of every block the better result is kept.

    In blocks of $n$ updates both optimizers go on from the same players $x$ on the same minibatches, to $y$ (the
    guarded one's proposal) and $z$ (the fallback's); then

    $$x \leftarrow \begin{cases} y & \text{if } F(y) < F(z) \\ z & \text{otherwise,} \end{cases} \qquad
    F = \frac1m \sum_{j=1}^m f_{V_j},$$

    with $m$ further minibatches $V_j$, the same for both. All coordinates switch together, and a candidate that is not
    finite is rejected. With `Blocks(1, 1)` on a deterministic problem this is the exact guard: whatever is proposed,
    $f$ decreases at least as it does under the fallback, which is by $\eta (1 - L\eta/2) \lVert\nabla f(x)\rVert^2$ per
    step for gradient descent with $\eta < 2/L$.

    The comparison is greedy: over a whole run a guarded optimizer can be behind its fallback. `safeguard` cannot.

    **Arguments:**

    - `proposal`: what proposes: any nestax optimizer or Optax transformation.
    - `fallback`: what it is compared with, likewise. `nestax.optimizers.decaying_sgd` as published; Adam often does
      better and guarantees less.
    - `rule`: when it decides: `Blocks(num_steps=10, num_batches=10)`, the default and as published, or
      `AdaptiveBlocks`.
    - `on_reject`: what becomes of the proposing optimizer's state where the fallback's candidate was taken: `Keep()`
      (default), `Restore()`, `Count()`, `Reset()`, `Follow()` or `Own()`. The publication does not say which.
    - `on_accept`: what becomes of the fallback's state where the proposal was accepted, likewise. Default `Count()`.

    **Cost** per update: the gradients of both optimizers, and $2m/n$ losses. Samples of a step: for every piece of the
    rule those of the training steps first, then those of the validation.

    `StepInfo.losses` has one row per update, at the points that the guard led through: those of the accepted candidate.
    `StepInfo.aux` is a `Decision`. Decisions are not differentiated.

    If neither candidate has a finite loss, the step returns NaN, so that `solve` keeps the iterate before it and
    reports `RESULTS.nonfinite`. If the fallback alone raises the loss in 10 blocks in a row, `solve` warns that its
    learning rate is too large.

    **Raises** `ValueError` for what is no optimizer, rule or policy, blocks that do not fit the optimizers' own, and a
    problem of several players.

    **Source:** I. Premont-Schwarz, J. Vitku, J. Feyereisl, *A simple guard for learned optimizers*, ICML 2022,
    Algorithm 2 and criterion (1).

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> learned = nx.learned.RNNprop(key=jax.random.key(0))  # not even trained
    >>> guard = nx.guards.LossGuard(learned, nx.optimizers.sgd(0.1), rule=nx.guards.Blocks(1, 1))
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 4.0]))
    >>> solution = nx.solve(problem, guard, num_steps=100, key=jax.random.key(1))
    >>> bool((solution.losses[1:] <= solution.losses[:-1]).all())
    True

    ```
    """

    proposal: AbstractOptimizer
    fallback: AbstractOptimizer
    rule: AbstractRule
    on_reject: AbstractPolicy
    on_accept: AbstractPolicy

    def __init__(
        self,
        proposal: AbstractOptimizer | optax.GradientTransformation,
        fallback: AbstractOptimizer | optax.GradientTransformation,
        *,
        rule: AbstractRule | None = None,
        on_reject: AbstractPolicy | None = None,
        on_accept: AbstractPolicy | None = None,
    ):
        self.proposal = as_optimizer(proposal, "proposal")
        self.fallback = as_optimizer(fallback, "fallback")
        self.rule = check_rule(Blocks() if rule is None else rule)
        self.on_reject = check_policy(Keep() if on_reject is None else on_reject, "on_reject")
        self.on_accept = check_policy(Count() if on_accept is None else on_accept, "on_accept")
        if self.on_reject.follows or self.on_accept.follows:
            as_gradient_optimizer(self.proposal, "proposal")
            as_gradient_optimizer(self.fallback, "fallback")
        _ = self.samples_per_step  # raises where an optimizer's own blocks do not fit

    @property
    def optimizers(self) -> Pair:
        return Pair(self.proposal, self.fallback)

    @property
    def policies(self) -> Pair:
        """What becomes of each if the other's candidate is taken."""
        return Pair(self.on_reject, self.on_accept)

    @property
    def num_training_samples(self) -> int:
        """The training samples of a piece: both optimizers read the same ones, from the first on."""
        return max(num_samples(optimizer, self.rule.num_steps) for optimizer in self.optimizers)

    @property
    def samples_per_step(self) -> int:
        return self.rule.max_multiple * (self.num_training_samples + self.rule.num_batches)

    @property
    def updates_per_step(self) -> int:
        return self.rule.max_multiple * self.rule.num_steps

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> LossGuardState:
        if len(players) != 1:
            raise ValueError(
                f"A loss guard compares one loss, but {type(problem).__name__} has {len(players)} players. "
                "Guard problems with one player."
            )
        states = both(lambda o, k: o.init(problem, players, k), self.optimizers, Pair(*jax.random.split(key)))
        return LossGuardState(
            states=states,
            initial=both(lambda policy, state: state if policy.needs_initial else None, self.policies, states),
            alone=both(lambda policy: players if policy.runs_alone else None, self.policies),
            multiple=jnp.array(1),
            watch=fresh_watch(loss_dtype(problem, players)),
        )

    def step(
        self, problem: AbstractProblem, players: Players, state: LossGuardState, samples: Sample
    ) -> tuple[Players, LossGuardState, StepInfo]:
        num = self.rule.max_multiple
        pieces = jax.tree.map(lambda x: x.reshape(num, x.shape[0] // num, *x.shape[1:]), samples)
        training = jax.tree.map(lambda x: x[:, : self.num_training_samples], pieces)
        validation = jax.tree.map(lambda x: x[:, self.num_training_samples :], pieces)
        progress = Progress(
            players=players,
            before=state.states,
            candidates=begin(players, state.states, self.policies, state.alone),
            multiple=state.multiple,
            num_pieces=jnp.array(0),
            watch=state.watch,
        )
        piece = Piece(self, problem, state.initial, validation)
        out = rollout(piece, progress, (jnp.arange(num), training), num_steps=num, throw=False)
        end, (losses, ended, decisions, costs) = out.carry, out.info
        failed = out.result != RESULTS.successful
        players = jax.tree.map(lambda p: jnp.where(failed, jnp.full_like(p, jnp.nan), p), end.players)
        state = LossGuardState(
            states=end.before,
            initial=state.initial,
            alone=both(lambda p, c: c.players if p.runs_alone else None, self.policies, end.candidates),
            multiple=end.multiple,
            watch=end.watch,
        )
        last = _ends_of_blocks(ended)  # for every piece that with which its block ends
        decisions = jax.tree.map(lambda x: x[last], decisions)
        accepted = decisions.accepted[:, None, None] > 0
        losses = jnp.where(accepted, losses.proposal, losses.fallback)  # (pieces, updates, players)
        losses = losses.reshape(self.updates_per_step, losses.shape[-1])
        if self.updates_per_step == 1:
            losses = losses[0]
        if num == 1:
            decisions = jax.tree.map(lambda x: x[0], decisions)
        return players, state, StepInfo(losses, jax.tree.map(jnp.sum, costs), decisions)

    def diagnose(self, state: LossGuardState) -> tuple[str, ...]:
        return state.watch.messages()

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        """This guard as an Optax transformation, for any training loop that can hand over its loss.

        `update` takes two further arguments: `value_fn`, the loss of this step's minibatch as a function of the
        parameters, and, on the last step of a block, `validation_fn`, the loss over other minibatches: their mean, or
        one loss per minibatch, of which a standard error is made (at least 2 with `AdaptiveBlocks`). Default:
        `value_fn`, which is right for a deterministic loss.

        Within a block the parameters follow the fallback, or, where that has a run of its own, the proposal; its last
        update leads to the accepted candidate. Cost per update: the loop's gradient, one of `value_fn` for each other
        candidate, and two losses per block. If neither candidate has a finite loss, the parameters go back to the start
        of the block.

        Gradients are read at several points, so what transforms them goes inside: instead of
        `optax.chain(optax.clip(1.0), guard)` guard `optax.chain(optax.clip(1.0), learned.as_optax())`, and likewise the
        fallback. A guard compares the gradient that it is given with its own at the first step of a block, and fails if
        they differ.

        **Example**

        ```python
        >>> import jax, jax.numpy as jnp, optax, nestax as nx
        >>> loss = lambda params: jnp.sum(params["w"] ** 2)
        >>> learned = nx.learned.RNNprop(key=jax.random.key(0))
        >>> guard = nx.guards.LossGuard(learned, optax.sgd(0.1), rule=nx.guards.Blocks(2)).as_optax()
        >>> params = {"w": jnp.ones(3)}
        >>> state = guard.init(params)
        >>> for _ in range(4):
        ...     updates, state = guard.update(jax.grad(loss)(params), state, params, value_fn=loss)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 3.0)
        True

        ```

        **Raises** `ValueError` if either optimizer has no Optax form, for a missing `value_fn`, for parameters of
        another structure than the state's, and inside `optax.masked` or `optax.multi_transform`; an error at run time
        for gradients that were transformed before.
        """
        return in_a_loop(self.optimizers, self.policies, self.rule)


class Progress(eqx.Module):
    """Where a step of the guard stands between two pieces."""

    players: Players  # the last accepted ones
    before: Pair  # the states of both at the start of the block
    candidates: Pair
    multiple: Int[Array, ""]  # pieces that this block is to have
    num_pieces: Int[Array, ""]  # pieces that it has had
    watch: FallbackWatch


class PieceInfo(NamedTuple):
    """What a piece tells its reader."""

    losses: Pair  # of both candidates before every update, `(updates, players)`
    ended: Bool[Array, ""]  # whether a block ended with it
    decision: Decision  # if so, which way
    cost: Cost


class Piece(AbstractStep):
    """`num_steps` updates of both candidates, and the decision where a block ends with them."""

    guard: LossGuard
    problem: AbstractProblem
    initial: Pair
    validation: Sample  # of all pieces

    def iterate(self, carry: Progress) -> Players:
        return carry.players

    def __call__(self, carry: Progress, x: Any) -> tuple[Progress, PieceInfo]:
        rule, policies = self.guard.rule, self.guard.policies
        index, samples = x
        advanced = both(
            lambda optimizer, candidate: advance(self.problem, optimizer, candidate, samples, rule.num_steps),
            runners(self.guard.optimizers, policies),
            carry.candidates,
        )
        candidates = both(lambda out: out[0], advanced)
        losses = both(lambda o, out: losses_per_update(out[1], o.updates_per_step), self.guard.optimizers, advanced)
        made = both(lambda out: jax.tree.map(jnp.sum, out[1].cost), advanced)

        num_pieces = carry.num_pieces + 1
        ends = (num_pieces == carry.multiple) | (index == rule.max_multiple - 1)
        comparison = self.compare(candidates, index + 1 - num_pieces, jnp.where(ends, num_pieces, 0))
        finite = jnp.stack([candidate.finite for candidate in candidates])
        verdict = judge(comparison.moments, finite, num_pieces * rule.num_steps, rule.margin)
        accepted = select(verdict.accept, candidates.proposal.players, candidates.fallback.players)
        # neither is finite: NaN stops the run
        accepted = jax.tree.map(lambda p: jnp.where(verdict.failed, jnp.full_like(p, jnp.nan), p), accepted)
        states = states_after(verdict.accept, policies, carry.before, candidates, self.initial)
        fresh = Progress(
            players=accepted,
            before=states,
            candidates=begin(accepted, states, policies, own_runs(accepted, policies, candidates)),
            multiple=rule.next_multiple(carry.multiple, num_pieces, comparison),
            num_pieces=jnp.zeros_like(num_pieces),
            watch=carry.watch.after(verdict, policies.fallback.runs_alone),
        )
        under_way = Progress(carry.players, carry.before, candidates, carry.multiple, num_pieces, carry.watch)
        cost = made.proposal + made.fallback + Cost(losses=comparison.num_used * (2 * rule.num_batches))
        return select(ends, fresh, under_way), PieceInfo(losses, ends, verdict.decision, cost)

    def compare(self, candidates: Pair, first: Int[Array, ""], num_pieces: Int[Array, ""]):
        """The comparison on the validation batches of the block's pieces. It is not differentiated."""
        problem, validation, candidates = jax.lax.stop_gradient((self.problem, self.validation, candidates))

        def losses(i: Int[Array, ""]) -> Float[Array, "num 2"]:
            batches = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, first + i, keepdims=False), validation)
            num = self.guard.rule.num_batches
            return validation_losses(problem, candidates.proposal.players, candidates.fallback.players, batches, num)

        return self.guard.rule.compare(losses, num_pieces, loss_dtype(problem, candidates.proposal.players))


def _ends_of_blocks(ended: Bool[Array, " pieces"]) -> Int[Array, " pieces"]:
    """For every piece the index of the one with which its block ends."""
    num = ended.shape[0]
    return jax.lax.cummin(jnp.where(ended, jnp.arange(num), num - 1), reverse=True)
