"""Test-time adaptation: a few meta-updates on the problem that a learned optimizer is about to be used for."""

import dataclasses
import math
from typing import Any

import optax
from jaxtyping import PRNGKeyArray

from .._checks import count
from .._family import AnyFamily
from .._rollout import RESULTS, NumericalError
from ..learned import AbstractLearnedOptimizer
from ._estimators import AbstractGradientEstimator
from ._losses import AbstractMetaLoss
from ._objectives import AbstractMetaObjective
from ._train import train


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """What `adapt` returns.

    - `optimizer`: the adapted optimizer; the unadapted one where the adaptation failed.
    - `num_steps`: meta-updates that it took: 0 after a failure.
    - `history`: one record per run, as in `MetaTraining`.
    - `result`: a `RESULTS`; `message`: what went wrong where it is not `successful`.
    """

    optimizer: AbstractLearnedOptimizer
    num_steps: int
    history: list[dict[str, Any]]
    result: Any
    message: str


def adapt(
    optimizer: AbstractLearnedOptimizer,
    problems: AnyFamily,
    *,
    key: PRNGKeyArray,
    num_steps: int = 5,
    unroll: int = 20,
    horizon: int | None = None,
    num_tasks: int = 1,
    meta_loss: AbstractMetaLoss | AbstractMetaObjective | None = None,
    estimator: AbstractGradientEstimator | None = None,
    meta_optimizer: optax.GradientTransformation | None = None,
    throw: bool = False,
) -> Adaptation:
    r"""Adapts a learned optimizer to a problem by a few meta-updates.

    It is `train` for `num_steps` truncations of one run on `problems`. An optimizer that was trained with
    `AdaptedGradient` (M-L2O) is a start made for it; any other can be adapted too. It costs `num_steps * unroll` steps
    of the optimizer, and their differentiation: for the defaults less than a run of 500 steps.

    **Arguments:**

    - `optimizer`: where to start from.
    - `problems`: what to adapt to: a problem, a family of problems, or a function from a PRNG key to a problem.
    - `key`: a PRNG key, fixes the initial point and the samples.
    - `num_steps`: meta-updates. Default 5, as in the paper; 0 returns the optimizer as it is.
    - `unroll`: steps per meta-update. Default 20, as released.
    - `horizon`: steps of one run, after which the next one starts afresh. Default: one run, `num_steps * unroll`. It
      must be a multiple of `unroll`, and divide `num_steps * unroll`.
    - `num_tasks`: problems per meta-update.
    - `meta_loss`, `estimator`, `meta_optimizer`: as for `train`; by default the sum of the losses, and Adam with
      learning rate 1e-3, as released.
    - `throw`: raise `NumericalError` where the adaptation fails. Default false: the optimizer comes back unadapted.

    It fails where a meta-loss, a meta-gradient or a meta-parameter is not finite, in any of the updates: half an
    adaptation may be worse than none.

    **Returns** an `Adaptation`.

    **Raises** `ValueError` for bad arguments, and for a problem that the optimizer is not made for; `NumericalError` as
    above.

    **Source:** Yang et al., "M-L2O", ICLR 2023, section 3.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.normal_lasso(jax.random.key(0), 10.0, num_instances=6, rows=3, dim=3)
    >>> optimizer = nx.learned.preset("rnnprop-m-l2o", key=jax.random.key(1))
    >>> adaptation = nx.meta.adapt(optimizer, problem, key=jax.random.key(2))
    >>> adaptation.num_steps
    5

    ```
    """
    num_steps, unroll = count(num_steps, "num_steps", at_least=0), count(unroll, "unroll")
    if num_steps == 0:
        return Adaptation(optimizer, 0, [], RESULTS.successful, "")
    total = num_steps * unroll
    horizon = total if horizon is None else count(horizon, "horizon")
    if total % horizon or horizon % unroll:
        raise ValueError(
            f"`horizon` must be a multiple of `unroll` ({unroll}) that divides all {total} steps, got {horizon}."
        )
    training = train(
        optimizer,
        problems,
        key=key,
        schedule=((horizon, total // horizon),),
        unroll=unroll,
        num_tasks=num_tasks,
        meta_loss=meta_loss,
        estimator=estimator,
        meta_optimizer=meta_optimizer,
        throw=False,
    )
    finite = all(math.isfinite(record["final_loss"] or 0.0) for record in training.history)
    if training.result == RESULTS.successful and not training.num_skipped and finite:
        return Adaptation(training.optimizer, num_steps, training.history, RESULTS.successful, "")
    message = training.message or f"{training.num_skipped} of {num_steps} meta-updates were not finite"
    if throw:
        raise NumericalError(f"The adaptation failed: {message}. Lower the learning rate of `meta_optimizer`.")
    return Adaptation(optimizer, 0, training.history, RESULTS.unadapted, message)
