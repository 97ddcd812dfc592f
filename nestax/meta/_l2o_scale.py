"""The training of L2O-Scale: losses relative to the first one, and the published settings."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import named
from .._family import AbstractFamily, as_family
from .._gradients import evaluate_losses
from .._problem import AbstractProblem, Players, Sample
from ._estimators import TruncatedBackprop
from ._losses import MeanLog


class RelativeLoss(AbstractFamily):
    r"""Problems whose losses are divided by the loss at an initial point: $f / (f_0 + 10^{-6})$.

    So problems of different scales count alike in a meta-loss. An optimizer that is invariant to the scale of the loss,
    such as `HierarchicalRNN`, takes the same steps as on $f$. For losses that are never negative.

    **Arguments:** `tasks`: a problem, or a family of problems.

    **Source:** Wichrowska et al. (ICML 2017), section 4.1. **Deviation:** $f_0$ is the loss at another draw of the
    initial point, on one sample, than that where the run starts.
    """

    tasks: AbstractFamily = eqx.field(converter=named(as_family, "tasks"))

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        task_key, init_key, sample_key = jax.random.split(key, 3)
        problem = self.tasks(task_key)
        sample = jax.tree.map(lambda x: x[0], problem.samples(sample_key, 1))
        first = jnp.stack(evaluate_losses(problem, problem.init(init_key), sample))
        return ScaledLosses(problem, 1 / (jax.lax.stop_gradient(first) + 1e-6))


class ScaledLosses(AbstractProblem):
    """A problem with the losses of its players times a factor each."""

    problem: AbstractProblem
    factors: Float[Array, " players"]

    def init(self, key: PRNGKeyArray) -> Players:
        return self.problem.init(key)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return self.problem.samples(key, num)

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        losses = self.problem.losses(players, sample)
        return tuple(factor.astype(x.dtype) * x for factor, x in zip(self.factors, losses))


def l2o_scale_training() -> dict[str, Any]:
    r"""The settings of `train` for `HierarchicalRNN` (the presets `"l2o-scale"`), as keyword arguments.

    Meta-loss $\frac{1}{L + 1} \sum_t \ln(f_t + 10^{-6})$, on problems in `RelativeLoss`; truncations of 20 steps;
    RMSProp with rate $10^{-6}$, decay 0.9 and $\epsilon = 10^{-20}$ on gradients whose entries are cut to $\pm 10^4$.
    The schedule is yours. Published: `RandomLengths` over an `Ensemble` (Wichrowska et al., 2017), or
    `HorizonCurriculum` with periods of one epoch and horizons to 5,000, and `Imitation` with ratio 0.1 (Chen et al.,
    2020).

    **Source:** the released code of Chen et al. (NeurIPS 2020). **Deviation:** the meta-loss is on the samples of the
    steps, where the code takes a fixed subset of 10,000; an update with an entry that is not finite is skipped, where
    the code sets the entry to zero.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> optimizer = nx.learned.preset("l2o-scale", key=jax.random.key(0))
    >>> tasks = nx.meta.RelativeLoss(nx.problems.Quadratic(jax.numpy.array([1.0, 10.0])))
    >>> settings = nx.meta.l2o_scale_training() | {"schedule": [(20, 1)]}
    >>> training = nx.meta.train(optimizer, tasks, **settings, key=jax.random.key(1))

    ```
    """
    return {
        "schedule": ((100, 100),),
        "unroll": 20,
        "meta_loss": MeanLog(),
        "estimator": TruncatedBackprop(),
        "meta_optimizer": optax.chain(optax.clip(1e4), optax.rmsprop(1e-6, decay=0.9, eps=1e-20)),
    }
