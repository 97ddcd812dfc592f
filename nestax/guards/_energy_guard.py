"""Safeguarded L2O for convex-concave games: accept a proposal of small energy, else take Halpern's step."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._resolvent import toward_anchor
from .._rollout import all_finite, select
from .._tree import common_dtype, dot, upcast
from ..optimizers import AbstractResolventSolver, Resolvent, as_optimizer
from ._candidates import healthy
from ._policies import AbstractStatePolicy, Keep, NotTaken, check_policy


class EnergyDecision(eqx.Module):
    """A decision of an energy guard, in `StepInfo.aux`. All entries are floating-point, so that a record holds means.

    - `accepted`: 1.0 where the proposal was accepted, else 0.0.
    - `finite`: 1.0 where the proposal was finite, else 0.0.
    - `energy`: $E_{k+1}$ of the proposal; `inf` where it is not finite.
    - `threshold`: $C / (k + 1)$.
    """

    accepted: Float[Array, ""]
    finite: Float[Array, ""]
    energy: Float[Array, ""]
    threshold: Float[Array, ""]


class EnergyGuardState(eqx.Module):
    """The guarded optimizer's state, the anchor, the last known image of the resolvent, and counts."""

    # constant over a run, but for `unit`, which the first step sets
    anchor: Players  # the initial players, in float32 at least
    prepared: PyTree  # of the resolvent
    unit: Float[Array, ""]  # what the slack is a multiple of
    initial: PyTree  # the guarded optimizer's first state, where the policy needs it
    # changes
    proposal: PyTree
    point: Players  # where the image is known: `players`, after an acceptance. Both in float32 at least
    image: Players
    count: Int[Array, ""]  # k
    num_accepted: Int[Array, ""]
    num_nonfinite: Int[Array, ""]  # proposals that held NaN or inf


class EnergyGuard(AbstractOptimizer):
    r"""Safeguarded L2O for convex-concave games: any optimizer proposes, Halpern's iteration is the fallback.

    With the resolvent $J = (I + \alpha g)^{-1}$ of the joint gradient $g$, the residual $F(u) = (u - J u) / 2$, the
    initial point $u_1$ and the energy

    $$E_{k}(u) = \lVert F(u) \rVert^2 - \frac{1}{k-1} \langle F(u), u_1 - u \rangle,$$

    the step from $u_k$ with the proposal $z$ is

    $$u_{k+1} = \begin{cases} z & \text{if } E_{k+1}(z) \le C / (k + 1) \\
    \frac{1}{k+1} u_1 + \frac{k}{k+1} J(u_k) & \text{otherwise,} \end{cases}$$

    for $k = 2, 3, \dots$; the first step is the fallback's. **Whatever is proposed**, noise or NaN, if $g$ is monotone
    and $d$ is the distance of $u_1$ to the saddle set, for all $k \ge 2$

    $$\lVert u_k - J u_k \rVert \le \frac{d + \sqrt{d^2 + 4 C (k^2 - 1) / k}}{k + 1}
    \le \frac{d}{k-1} + \sqrt{\frac{d^2}{(k-1)^2} + \frac{4 C}{k}},$$

    so residuals vanish and every limit point is a saddle point: at the rate $1/k$ for $C = 0$, and not slower than
    $1/\sqrt k$ otherwise. On games that are not convex-concave nothing is promised.

    **Arguments:**

    - `proposal`: what proposes: any nestax optimizer or Optax transformation.
    - `step_size`: $\alpha$, the step size of the resolvent, in units of one over curvature.
    - `slack`: $C$, in units of a squared distance. Default 0: the sharpest bound, and the fewest acceptances.
    - `relative`: whether `slack` is a multiple of $\lVert F(u_1) \rVert^2$ instead, so that it does not depend on the
      scale of the game. Default: no.
    - `resolvent`: how the resolvent is computed; see `nestax.optimizers.Halpern`.
    - `on_reject`: what becomes of the proposing optimizer's state after a rejection: `Keep()` (default), `Restore()`,
      `Count()` or `Reset()`. The publication does not say.

    **Cost** per step: the proposal's, one resolvent at the proposal, and one at $u_k$ only where the fallback is taken
    and the last step's was as well (else it is known). `StepInfo.cost.resolvents` counts them; under `vmap` both are
    computed. `StepInfo.aux` is an `EnergyDecision`.

    At the end `solve` warns of proposals that were not finite (`state.num_nonfinite` counts them), and of a run in
    which none was accepted.

    **Raises** `ValueError` for a `step_size` that is not positive, a negative `slack`, another policy, and a problem
    without a resolvent.

    **Source:** J. Shen, X. Chen, H. Heaton, T. Chen, J. Liu, W. Yin, Z. Wang, *Learning a minimax optimizer: a pilot
    study*, ICLR 2021, Method 1 and Theorem 3.1. **Corrections:** in the energy (7) the factor is printed as $1/k$; the
    proof needs $1/(k-1)$, without which the fallback itself can break the bound on the energy. The listing tests
    $u_{k+1}$ where the proposal is meant. The bound (8) is printed with half of the right-hand side: it bounds
    $\lVert F \rVert$, not $\lVert u_k - J u_k \rVert = 2 \lVert F \rVert$.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.BilinearGame.random(jax.random.key(0))
    >>> circling = nx.optimizers.sgd(0.3)  # both players at once: diverges alone
    >>> guard = nx.guards.EnergyGuard(circling, step_size=10.0)
    >>> solution = nx.solve(problem, guard, num_steps=500, key=jax.random.key(1))
    >>> all(bool(d < 0.1) for d in problem.distances(solution.players))
    True

    ```
    """

    proposal: AbstractOptimizer
    implicit: Resolvent
    slack: Float[Array, ""]
    relative: bool = eqx.field(static=True)
    on_reject: AbstractStatePolicy

    def __init__(
        self,
        proposal: AbstractOptimizer | optax.GradientTransformation,
        step_size: float | Float[Array, ""],
        slack: float | Float[Array, ""] = 0.0,
        *,
        relative: bool = False,
        resolvent: AbstractResolventSolver | None = None,
        on_reject: AbstractStatePolicy | None = None,
    ):
        self.proposal = as_optimizer(proposal, "proposal")
        self.implicit = Resolvent(step_size, resolvent)
        if isinstance(slack, int | float) and not 0 <= slack < float("inf"):
            raise ValueError(f"`slack`, the constant C, must be a finite number of at least 0, got {slack}.")
        self.slack = jnp.asarray(slack, float) if isinstance(slack, int | float) else slack
        self.relative = relative
        policy = Keep() if on_reject is None else on_reject
        self.on_reject = check_policy(policy, "on_reject", AbstractStatePolicy)

    @property
    def samples_per_step(self) -> int:
        return self.proposal.samples_per_step

    @property
    def updates_per_step(self) -> int:
        return self.proposal.updates_per_step

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> EnergyGuardState:
        proposal = self.proposal.init(problem, players, key)
        return EnergyGuardState(
            anchor=upcast(players),
            prepared=self.implicit.prepare(problem),
            unit=jnp.ones((), common_dtype(players, jnp.float32)),
            initial=proposal if self.on_reject.needs_initial else None,
            proposal=proposal,
            point=jax.tree.map(lambda p: jnp.full_like(p, jnp.inf), upcast(players)),  # nowhere
            image=upcast(players),
            count=jnp.array(1),
            num_accepted=jnp.array(0),
            num_nonfinite=jnp.array(0),
        )

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, EnergyGuardState, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        proposal, after, proposed = self.proposal.step(problem, players, state.proposal, samples)
        finite = all_finite(proposal)
        proposal = select(finite, proposal, players)  # a resolvent at NaN could stop a general solver

        at_proposal, each = self._image(problem, proposal, sample, state)
        energy = jnp.where(finite, self._energy(proposal, at_proposal, state), jnp.inf)
        k = state.count.astype(energy.dtype)
        threshold = self.slack.astype(energy.dtype) * state.unit / (k + 1)
        accept = finite & (energy <= threshold) & (state.count > 1)

        needed = ~accept & ~_equal(upcast(players), state.point)
        here = jax.lax.cond(needed, lambda: self._image(problem, players, sample, state)[0], lambda: state.image)
        fallback = toward_anchor(state.anchor, here, state.count)
        fallback = jax.tree.map(lambda f, p: f.astype(p.dtype), fallback, players)
        num_resolvents = 1 + needed.astype(state.count.dtype)

        first = self.relative & (state.count == 1)  # an array: the count is one
        unit = jnp.where(first, _norm_squared(_residual(players, here)), state.unit)
        not_taken = NotTaken(state.proposal, after, state.initial, None)
        after = select(accept, after, self.on_reject.state(not_taken))
        point, image = select(accept, (upcast(proposal), at_proposal), (upcast(players), here))
        state = EnergyGuardState(
            anchor=state.anchor,
            prepared=state.prepared,
            unit=unit,
            initial=state.initial,
            proposal=healthy(after, state.proposal),
            point=point,
            image=image,
            count=state.count + 1,
            num_accepted=state.num_accepted + accept.astype(state.count.dtype),
            num_nonfinite=state.num_nonfinite + (~finite).astype(state.count.dtype),
        )
        dtype = energy.dtype
        decision = EnergyDecision(accept.astype(dtype), finite.astype(dtype), energy, threshold)
        info = StepInfo(
            proposed.losses,
            proposed.cost + Cost(gradients=each * num_resolvents, resolvents=num_resolvents),
            decision,
        )
        return select(accept, proposal, fallback), state, info

    def _image(
        self, problem: AbstractProblem, players: Players, sample: Sample, state: EnergyGuardState
    ) -> tuple[Players, int]:
        image, num_gradients = self.implicit(problem, players, sample, state.prepared)
        return upcast(image), num_gradients

    def _energy(self, players: Players, image: Players, state: EnergyGuardState) -> Float[Array, ""]:
        """$E_{k+1}$ with the `count` $k$."""
        residual = _residual(players, image)
        to_anchor = jax.tree.map(jnp.subtract, state.anchor, upcast(players))
        product = dot(residual, to_anchor)
        return _norm_squared(residual) - product / state.count.astype(product.dtype)

    def diagnose(self, state: Any) -> tuple[str, ...]:
        messages = self.proposal.diagnose(state.proposal)
        num_steps, num_nonfinite = int(state.count) - 1, int(state.num_nonfinite)
        if num_nonfinite:
            messages += (
                f"{num_nonfinite} of the {num_steps} proposals that the guard was given held NaN or inf and were "
                "rejected. The guarded optimizer diverges on this problem.",
            )
        if num_steps >= 10 and int(state.num_accepted) == 0:
            messages += (
                f"The guard accepted none of {num_steps} proposals, so the run is Halpern's iteration, at a higher "
                "cost. A larger `slack` accepts more.",
            )
        return messages


def _residual(players: Players, image: Players) -> Players:
    """$F(u) = (u - J u) / 2$, in float32 at least."""
    return jax.tree.map(lambda u, j: (u - j) / 2, upcast(players), image)


def _norm_squared(tree: PyTree) -> Float[Array, ""]:
    return dot(tree, tree)


def _equal(a: PyTree, b: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(x == y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))]))
