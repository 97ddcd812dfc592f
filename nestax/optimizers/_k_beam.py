"""K-beam: the minimizing player against the best of several maximizing ones."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import count, describe, is_concrete, nonnegative, scalar
from .._gradients import evaluate_losses
from .._optimizer import AbstractOptimizer, Cost, StepInfo
from .._problem import AbstractProblem, Players, Sample, check_zero_sum
from .._tree import Scalar, add_scaled
from ._play import own_gradient


class KBeamState(eqx.Module):
    """All candidates of the second player, which of them the players show, and the number of steps."""

    candidates: PyTree  # leaves with a leading axis of length K
    shown: Int[Array, ""]
    count: Int[Array, ""]


def _as_box(box: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    if not isinstance(box, tuple | list) or len(box) != 2:
        raise ValueError(f"`box` must be a pair of bounds such as (-0.5, 0.5), or None, got {describe(box)}.")
    low, high = scalar(box[0], "box"), scalar(box[1], "box")
    if is_concrete(low) and is_concrete(high) and not bool((low < high).all()):
        raise ValueError(f"`box` must be a lower and an upper bound, in this order, got {low} and {high}.")
    return low, high


class KBeam(AbstractOptimizer):
    r"""K-beam minimax, for zero-sum games $\min_x \max_y f(x, y)$ that are not concave in $y$: $K$ candidates
    $y^1, \dots, y^K$ follow their gradients, and $x$ descends on the worst case among them. For $t = 1, 2, \dots$

    $$i = \arg\max_k f(x, y^k), \qquad x \leftarrow x - \rho_t\, \partial_x f(x, y^i), \qquad
    y^k \leftarrow y^k + \rho_t\, \partial_y f(x, y^k) \;\; \text{for all } k, \qquad \rho_t = \eta\, t^{-q}.$$

    The second player of the result is the candidate with the largest payoff after the step. With $K = 1$ it is
    alternating gradient descent with the step $\rho_t$.

    **Arguments:**

    - `learning_rate`: $\eta$.
    - `num_candidates`: $K$. Default 5, the number from which on the source sees no more gain. The first candidate
      begins at the initial point, the others where `problem.init` draws them.
    - `decay`: $q$. Default 0.5, as published; 0 is a constant step.
    - `box`: a pair of bounds to which every coordinate of both players is clipped after its update, as in the code
      published with the method. Default `None`: no clipping.

    **Cost** per step: $1 + K$ gradients of one player (each counts one, as in `Alternating`), and $2 K$ losses.

    **Raises** `ValueError` for a problem that is not an `AbstractMinimax`, and for $K < 1$.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Seesaw(1.0, 1.0)
    >>> optimizer = nx.optimizers.KBeam(0.1, box=(-0.5, 0.5))
    >>> solution = nx.solve(problem, optimizer, num_steps=1_000, key=jax.random.key(0))
    >>> bool(problem.distances(solution.players)[0] < 0.05)
    True

    ```

    **Source:** J. Hamm, Y.-K. Noh, *K-beam minimax: efficient optimization for deep adversarial learning*, ICML 2018,
    Algorithm 1 (with exact ties, a zero tolerance).
    """

    learning_rate: Float[Array, ""]
    decay: Float[Array, ""]
    box: tuple[Float[Array, ""], Float[Array, ""]] | None
    num_candidates: int = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Scalar,
        num_candidates: int = 5,
        decay: Scalar = 0.5,
        box: tuple[Scalar, Scalar] | None = None,
    ):
        self.learning_rate = nonnegative(learning_rate, "learning_rate")
        self.decay = nonnegative(decay, "decay")
        self.num_candidates = count(num_candidates, "num_candidates")
        self.box = None if box is None else _as_box(box)

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> KBeamState:
        check_zero_sum(problem, "KBeam", players)
        drawn = [problem.init(k)[1] for k in jax.random.split(key, self.num_candidates)[1:]]
        candidates = jax.tree.map(lambda first, *rest: jnp.stack([first, *rest]), players[1], *drawn)
        return KBeamState(candidates, jnp.array(0), jnp.array(0))

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, KBeamState, StepInfo]:
        check_zero_sum(problem, "KBeam", players)
        sample = jax.tree.map(lambda x: x[0], samples)
        x, y = players
        losses = jnp.stack(evaluate_losses(problem, players, sample))
        count = state.count + 1
        rate = self.learning_rate * count.astype(self.decay.dtype) ** (-self.decay)
        # what a wrapper has made of the shown candidate goes on
        candidates = jax.tree.map(lambda all, own: all.at[state.shown].set(own), state.candidates, y)

        def payoff(x, y):
            return evaluate_losses(problem, (x, y), sample)[0]

        def worst(x, candidates):
            return jnp.argmax(jax.vmap(payoff, (None, 0))(x, candidates))

        hardest = jax.tree.map(lambda all: all[worst(x, candidates)], candidates)
        x = self._clip(add_scaled(x, -rate, own_gradient(problem, (x, hardest), sample, 0)[1]))

        def ascend(y):  # the second player descends on -f
            return self._clip(add_scaled(y, -rate, own_gradient(problem, (x, y), sample, 1)[1]))

        candidates = jax.vmap(ascend)(candidates)
        shown = worst(x, candidates)
        y = jax.tree.map(lambda all: all[shown], candidates)
        info = StepInfo(losses, Cost(gradients=1 + self.num_candidates, losses=2 * self.num_candidates))
        return (x, y), KBeamState(candidates, shown.astype(state.shown.dtype), count), info

    def _clip(self, tree: PyTree) -> PyTree:
        if self.box is None:
            return tree
        low, high = self.box
        return jax.tree.map(lambda p: jnp.clip(p, low.astype(p.dtype), high.astype(p.dtype)), tree)
