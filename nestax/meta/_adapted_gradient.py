"""Nested meta-training: the meta-gradient after a step of adaptation, so that the optimizer learns to adapt."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import named, nonnegative
from .._tree import add_scaled
from ._batch import Batch, map_tasks
from ._estimators import AbstractGradientEstimator, TruncatedBackprop, Truncation

Order = Literal[1, 2]
Query = Literal["same", "next"]
_QUERY = 2**32 - 3  # folded into a task's key: the samples of the query truncation


class AdaptedGradient(AbstractGradientEstimator):
    r"""The meta-gradient at meta-parameters that were adapted to the task by one step of gradient descent.

    With the meta-loss $\ell_i$ of task $i$ over the present truncation (the *support*) and $\ell^q_i$ over the *query*,

    $$G(\phi) = \frac1N \sum_i \ell^q_i(\phi'_i), \qquad \phi'_i = \phi - \alpha \nabla \ell_i(\phi),$$

    so training makes $\phi$ a good start for `adapt`, where plain training makes it good as it is. The estimates are

    $$\text{order 2:} \quad \frac1N \sum_i \left(I - \alpha \nabla^2 \ell_i(\phi)\right) \nabla \ell^q_i(\phi'_i),
    \qquad \text{order 1:} \quad \frac1N \sum_i \nabla \ell^q_i(\phi'_i).$$

    The run goes on from the support truncation, at $\phi$. Gradients are held constant inside of $\ell_i$ unless the
    optimizer has `second_derivatives=True`, as everywhere. With $\alpha = 0$ and `query="same"` this is the estimator
    that it wraps.

    **Arguments:**

    - `rate`: $\alpha \ge 0$, in units of meta-parameters over meta-gradient: of the sum of the losses, if that is the
      meta-loss. Default 1e-3, as released.
    - `order`: 1 (default), as released, or 2. First order costs two plain meta-gradients; second order has the Hessian
      by one product, forward over reverse, and costs about six.
    - `query`: `"next"` (default), as released: the truncation after the support, with its own samples, from where the
      unadapted optimizer arrived (held constant); or `"same"`, as in the theory: the support itself.
    - `estimator`: of both gradients. Default `TruncatedBackprop()`, which is the only one for order 2;
      `CoordinateSum(256)` is several times faster.

    **Raises** `ValueError` for a negative `rate`, another `order` or `query`, and for order 2 with an estimator that
    cannot be differentiated.

    **Source:** Yang et al., "M-L2O", ICLR 2023, eq. 5 and algorithm 1, which is `order=2, query="same"` with the
    meta-loss `Last()`; Finn, Abbeel and Levine, "Model-agnostic meta-learning", ICML 2017. **Deviation:** the released
    code clips the norm of every variable's gradient at 5e5, and counts the steps of the query's bias correction from
    those of the support.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> tasks = nx.FromSampler(nx.problems.uniform_lasso, num_instances=6, rows=3, dim=3)
    >>> optimizer = nx.learned.preset("rnnprop-m-l2o", key=jax.random.key(0))
    >>> settings = {"estimator": nx.meta.AdaptedGradient(), "schedule": [(20, 2)], "unroll": 10}
    >>> training = nx.meta.train(optimizer, tasks, **settings, key=jax.random.key(1))

    ```
    """

    rate: Float[Array, ""] = eqx.field(converter=named(nonnegative, "rate"), default=1e-3)
    order: Order = eqx.field(static=True, default=1)
    query: Query = eqx.field(static=True, default="next")
    estimator: AbstractGradientEstimator = TruncatedBackprop()

    def __check_init__(self):
        if self.order == 2 and not self.estimator.is_differentiable:
            raise ValueError(
                f"Order 2 differentiates the estimated gradient, which `{type(self.estimator).__name__}` does not "
                "allow. Use `TruncatedBackprop()`, or `order=1`."
            )

    def init(self, problem, optimizer, carry, key):
        return self.estimator.init(problem, optimizer, carry, key)

    def check(self, optimizer, meta_loss):
        self.estimator.check(optimizer, meta_loss)

    def unroll(self, optimizer, batch, meta_loss):
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def estimate(weights, one: Batch):
            """The unroll of one task, and the gradient of its meta-loss."""
            out, pullback = self.estimator.unroll(eqx.combine(weights, rest), one, meta_loss)
            return pullback(jnp.ones_like(out.values)), out

        def of_task(chosen, state, key):
            chosen, state, keys = jax.tree.map(lambda x: x[None], (chosen, state, key))
            support = Batch(batch.tasks, chosen, state, keys, batch.num_steps)
            gradient, out = estimate(weights, support)
            adapted = add_scaled(weights, -self.rate, gradient)
            query = support
            if self.query == "next":
                later = jax.random.fold_in(key, _QUERY)[None]
                query = Batch(batch.tasks, chosen, jax.lax.stop_gradient(out.state), later, batch.num_steps)
            outer, reached = estimate(adapted, query)
            if self.order == 2:
                # (I - alpha H) v with the Hessian H of the support's meta-loss, which is symmetric.
                (product,) = jax.jvp(lambda w: estimate(w, support)[0], (weights,), (outer,))[1:]
                outer = add_scaled(outer, -self.rate, product)
            told = Truncation(reached.values, out.losses, out.state, out.unrolls)
            return jax.tree.map(lambda x: x[0], told), outer

        out, gradients = map_tasks(of_task, batch.chosen, batch.state, batch.keys)
        return out, lambda w: jax.tree.map(lambda g: jnp.tensordot(w.astype(g.dtype), g, axes=1), gradients)
