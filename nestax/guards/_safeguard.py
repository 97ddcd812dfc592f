"""The guard to recommend: greedy, and never behind its fallback."""

import optax

from .._optimizer import AbstractOptimizer
from ._loss_guard import LossGuard
from ._policies import AbstractPolicy, Own
from ._rules import Blocks


def safeguard(
    proposal: AbstractOptimizer | optax.GradientTransformation,
    fallback: AbstractOptimizer | optax.GradientTransformation,
    *,
    num_steps: int = 10,
    num_batches: int = 10,
    on_reject: AbstractPolicy | None = None,
    on_accept: AbstractPolicy | None = None,
) -> LossGuard:
    r"""`proposal` under a guard that is greedy, and never behind the run of `fallback` alone.

    Two guards in one: `LossGuard(LossGuard(proposal, fallback), fallback, on_accept=Own())`. The inner one gains from
    both optimizers together, block by block, but it is greedy, and can end behind its fallback. The outer one compares
    it with a run of the fallback's own. **Guarantee:** at the end of every block

    $$F(x) \le F(z),$$

    with $z$ where `fallback` alone would be after as many updates from the same start, whatever is proposed: exactly
    where the loss is deterministic, and else on the block's validation batches, so up to their noise.

    **Arguments:**

    - `proposal`: what proposes: any nestax optimizer or Optax transformation.
    - `fallback`: what it is never behind, likewise: the best classical optimizer that is known for the problem.
    - `num_steps`, `num_batches`: as for `Blocks`.
    - `on_reject`, `on_accept`: what becomes of the states inside the greedy guard, as for `LossGuard`.

    **Cost** per update: one gradient of `proposal`, two of `fallback`, and `4 * num_batches / num_steps` losses.

    **Returns** a `LossGuard`; its `Decision` says whether the greedy guard was taken.

    **Raises** `ValueError` as `LossGuard` and `Blocks` do.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Rosenbrock()
    >>> learned = nx.learned.RNNprop(key=jax.random.key(0))  # not even trained
    >>> guard = nx.guards.safeguard(learned, nx.optimizers.adam(0.05))
    >>> solution = nx.solve(problem, guard, num_steps=500, key=jax.random.key(1))
    >>> alone = nx.solve(problem, nx.optimizers.adam(0.05), num_steps=500, key=jax.random.key(1))
    >>> bool(problem.losses(solution.players, None)[0] <= problem.losses(alone.players, None)[0])
    True

    ```
    """
    rule = Blocks(num_steps, num_batches)
    greedy = LossGuard(proposal, fallback, rule=rule, on_reject=on_reject, on_accept=on_accept)
    return LossGuard(greedy, fallback, rule=rule, on_accept=Own())
