"""LGL2O: of two candidates, keep the one with the lower validation loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._rollout import select
from ._candidates import Candidate, OnAccept, OnReject, Pair, check_positive
from ._decision import FallbackWatch, Moments, Verdict, fresh_watch, judge, loss_dtype, validation_losses
from ._optax import block_transformation


def accepted_players(verdict: Verdict, candidates: tuple[Candidate, Candidate]) -> Players:
    """The chosen candidate's players; NaN if both failed, so that the rollout freezes and says so."""
    players = select(verdict.use_learned, candidates[0].players, candidates[1].players)
    return jax.tree.map(lambda p: jnp.where(verdict.failed, jnp.full_like(p, jnp.nan), p), players)


class LossGuardState(eqx.Module):
    """The states of both optimizers, and what the guard remembers."""

    learned: PyTree
    fallback: PyTree
    initial: PyTree  # the learned optimizer's first state, where `on_reject="reset"` needs it
    watch: FallbackWatch
    own: tuple[PyTree, PyTree]  # the players of the runs of their own, where `on_reject` or `on_accept` is "own"
    use_learned: Bool[Array, ""]  # the last decision


class LossGuard(AbstractOptimizer):
    r"""LGL2O: an optimizer, learned or not, beside a fallback; of every block the better result is kept.

    In blocks of `num_steps` updates both optimizers go on from the same players $x$ on the same minibatches, to $y$
    (the guarded one) and $z$ (the fallback); then

    $$x \leftarrow \begin{cases} y & \text{if } F(y) < F(z) \\ z & \text{otherwise,} \end{cases} \qquad
    F = \frac1m \sum_{j=1}^m f_{V_j},$$

    with $m$ = `num_batches` further minibatches $V_j$, the same for both. All coordinates switch together, and a
    candidate that is not finite is rejected. With `num_steps=1, num_batches=1` on a deterministic problem this is the
    exact guard: whatever the guarded optimizer proposes, $f$ decreases at least as it does under the fallback, which is
    by $\eta (1 - L\eta/2) \lVert\nabla f(x)\rVert^2$ per step for gradient descent with $\eta < 2/L$.

    **Arguments:**

    - `optimizer`: what proposes: any nestax optimizer or Optax transformation.
    - `fallback`: what it is compared with, likewise. `nestax.optimizers.decaying_sgd` as published; Adam often does
      better and guarantees less.
    - `num_steps`: updates per decision. Default 10: a learned optimizer may first raise the loss for a few steps.
    - `num_batches`: validation minibatches per decision. Default 10: with too few, noise decides.
    - `on_reject`: the guarded optimizer's state after a rejection. `"keep"` (default): the one that its own rejected
      steps led to. `"restore"`: the one at the start of the block. `"reset"`: its first one. `"follow"`: the one that
      it has after reading the gradients of the fallback's accepted steps (no further gradients; both optimizers must
      be `AbstractGradientOptimizer`s). `"own"`: its own, and its players too go on from its own candidate, so that its
      run is the one that it would be alone. A state that is not finite is never kept. The publication does not say
      which.
    - `on_accept`: the fallback's state after its candidate was not taken. `"count"` (default): as at the start of the
      block, but with integer leaves, that is step counts, advanced, so that schedules follow the global step count.
      `"follow"`: as above. `"own"`: not only its state but its players go on from its own candidate, so that the
      fallback's run is the one that it would be alone; at the end of every block the loss is then no higher than that
      run's, on the validation batches. The price: the fallback does not profit from what the learned optimizer gained.
      With both `"own"` the guard is no worse than either alone, and no better than the better one.

    **Cost** per update: the gradients of both optimizers, and `2 * num_batches / num_steps` losses. `StepInfo.aux` is a
    `Decision` per block. Samples: those of the training steps first, then the `num_batches` of the validation.

    If neither candidate has a finite loss, the step returns NaN, so that `solve` keeps the last accepted iterate and
    reports `RESULTS.nonfinite`. If the fallback alone raises the loss in 10 blocks in a row, `solve` warns that its
    learning rate is too large.

    **Raises** `ValueError` for numbers below 1, unknown modes, a problem of several players.

    **Source:** I. Premont-Schwarz, J. Vitku, J. Feyereisl, *A simple guard for learned optimizers*, ICML 2022,
    Algorithm 2 and criterion (1).

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> learned = nx.learned.RNNprop(key=jax.random.key(0))  # not even trained
    >>> guard = nx.guards.LossGuard(learned, nx.optimizers.sgd(0.1), num_steps=1, num_batches=1)
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 4.0]))
    >>> solution = nx.solve(problem, guard, num_steps=100, key=jax.random.key(1))
    >>> bool((solution.losses[1:] <= solution.losses[:-1]).all())
    True

    ```
    """

    pair: Pair
    num_steps: int = eqx.field(static=True)
    num_batches: int = eqx.field(static=True)

    def __init__(
        self,
        optimizer: AbstractOptimizer | optax.GradientTransformation,
        fallback: AbstractOptimizer | optax.GradientTransformation,
        num_steps: int = 10,
        num_batches: int = 10,
        on_reject: OnReject = "keep",
        on_accept: OnAccept = "count",
    ):
        check_positive(num_steps=num_steps, num_batches=num_batches)
        self.pair = Pair(optimizer, fallback, on_reject, on_accept)
        self.num_steps, self.num_batches = num_steps, num_batches
        self.pair.samples(num_steps)  # raises where an optimizer's own blocks do not fit

    @property
    def samples_per_step(self) -> int:
        return self.pair.samples(self.num_steps) + self.num_batches

    @property
    def updates_per_step(self) -> int:
        return self.num_steps

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> LossGuardState:
        learned, fallback = self.pair.init(problem, players, key)
        initial = learned if self.pair.on_reject == "reset" else None
        watch = fresh_watch(loss_dtype(problem, players))
        return LossGuardState(learned, fallback, initial, watch, self.pair.own_runs(players), jnp.array(False))

    def step(
        self, problem: AbstractProblem, players: Players, state: LossGuardState, samples: Sample
    ) -> tuple[Players, LossGuardState, StepInfo]:
        split = self.pair.samples(self.num_steps)
        training = jax.tree.map(lambda x: x[:split], samples)
        validation = jax.tree.map(lambda x: x[split:], samples)
        candidates = self.pair.start(players, (state.learned, state.fallback), state.own)
        candidates, made = self.pair.advance(problem, candidates, training, self.num_steps, state.use_learned)
        learned, fallback = candidates
        values = validation_losses(problem, learned.players, fallback.players, validation, self.num_batches)
        verdict = judge(Moments.of(values), jnp.stack([learned.finite, fallback.finite]), self.num_steps)
        states = self.pair.states(verdict.use_learned, (state.learned, state.fallback), candidates, state.initial)
        accepted = accepted_players(verdict, candidates)
        own, watch = self.pair.own_runs(accepted, candidates), state.watch.after(verdict, self.pair.on_accept == "own")
        state = LossGuardState(*states, state.initial, watch, own, verdict.use_learned)
        cost = made.cost + Cost(losses=2 * self.num_batches)
        info = StepInfo(made.losses, cost, verdict.decision)
        return accepted, state, info

    def diagnose(self, state: LossGuardState) -> tuple[str, ...]:
        return state.watch.messages()

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        """This guard as an Optax transformation, for any training loop that can hand over its loss.

        `update` takes two further arguments: `value_fn`, the loss of this step's minibatch as a function of the
        parameters, and, on the last step of a block, `validation_fn`, the mean loss over other minibatches (default:
        `value_fn`, which is right for a deterministic loss). Within a block the parameters follow the fallback; the
        guarded optimizer's candidate is in the state, and the last update of a block leads to the accepted one. Cost
        per update: the loop's gradient, one of `value_fn`, and two losses per block.

        If neither candidate has a finite loss, the parameters go back to the start of the block.

        **Example**

        ```python
        >>> import jax, jax.numpy as jnp, optax, nestax as nx
        >>> loss = lambda params: jnp.sum(params["w"] ** 2)
        >>> learned = nx.learned.RNNprop(key=jax.random.key(0))
        >>> guard = nx.guards.LossGuard(learned, optax.sgd(0.1), num_steps=2).as_optax()
        >>> params = {"w": jnp.ones(3)}
        >>> state = guard.init(params)
        >>> for _ in range(4):
        ...     updates, state = guard.update(jax.grad(loss)(params), state, params, value_fn=loss)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 3.0)
        True

        ```

        **Raises** `ValueError` if either optimizer is no `AbstractGradientOptimizer`, for a missing `value_fn`, and for
        parameters of another structure than the state's.
        """
        return block_transformation(self.pair, self.num_steps)
