"""The best response of the weights as a differentiable function of the hyperparameters."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray, PyTree

from .._checks import check_finite
from .._nested import InnerProblem
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Sample, check_sample
from .._rollout import rollout
from .._solve import stack_samples
from .._step import OptimizerStep
from ..optimizers import as_optimizer
from ._hypergradient import check_pair
from ._method import Implicit


def best_response(
    problem: AbstractProblem,
    hyperparameters: PyTree,
    weights: PyTree,
    *,
    optimizer: AbstractOptimizer | optax.GradientTransformation,
    num_steps: int,
    method: Implicit | None = None,
    sample: Sample = None,
    key: PRNGKeyArray | None = None,
) -> PyTree:
    r"""The weights $\hat w(\lambda)$ that `num_steps` steps of the inner optimizer reach, differentiable in $\lambda$.

    By the implicit function theorem, $\partial \hat w / \partial \lambda = -(C + \rho I)^{-1} \, \partial^2 L_T /
    \partial w \, \partial \lambda^\top$.

    Ordinary code that uses the result has the hypergradient as its gradient:

    `jax.grad(lambda h: validation_loss(h, best_response(problem, h, weights, ...)))`

    equals `hypergradient` at those weights. The steps themselves are not differentiated, so memory does not grow with
    their number. The derivative is a vector product with the transposed Jacobian (reverse mode only).

    The derivative with respect to the initial weights is zero, always: at an isolated minimum they do not matter. To
    differentiate with respect to an initialization or a learning rate, unroll. All else (the problem's own arrays, the
    optimizer's hyperparameters) must not be differentiated, and raises if it is.

    **Arguments:**

    - `problem`: two players, hyperparameters first.
    - `hyperparameters`, `weights`: where the derivative is taken, and where the inner optimizer starts.
    - `optimizer`, `num_steps`: the inner optimizer, and how long it runs.
    - `method`: an `Implicit`; default `Implicit(residual=False)`.
    - `sample`: the sample on which the implicit derivative is taken; `None` for a deterministic problem.
    - `key`: draws the samples of the inner steps; `None` (default) takes `sample` in all of them.

    **Raises** `ValueError` for bad arguments; and where a hyperparameter is differentiated that does not enter the
    inner loss. One that acts on the outer loss alone should pass through `jax.lax.stop_gradient` on its way in.

    **Example:** the response to $\lambda$ is $w = \lambda$.

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx, optax
    >>> class Toy(nx.AbstractNested, nx.AbstractDeterministicProblem):
    ...     def init(self, key):
    ...         return jnp.ones(2), jnp.ones(2)
    ...     def outer_loss(self, hyperparameters, weights, sample):
    ...         return 0.5 * jnp.sum((weights - 3) ** 2)
    ...     def inner_loss(self, hyperparameters, weights, sample):
    ...         return jnp.sum((weights - hyperparameters) ** 2)
    >>> def validation_loss(h):
    ...     w = nx.hyper.best_response(Toy(), h, jnp.zeros(2), optimizer=optax.sgd(0.2), num_steps=50)
    ...     return 0.5 * jnp.sum((w - 3) ** 2)
    >>> [round(float(x), 4) for x in jax.grad(validation_loss)(jnp.ones(2))]
    [-2.0, -2.0]

    ```
    """
    check_sample(problem, sample)
    check_pair(problem, (hyperparameters, weights), ("hyperparameters", "weights"))
    for leaf in jax.tree.leaves((hyperparameters, weights)):
        check_finite(leaf, "hyperparameters` and `weights")
    method = Implicit(residual=False) if method is None else method
    if not isinstance(method, Implicit):
        raise ValueError(
            f"`method` must be `Implicit(...)`, got {type(method).__name__}: differentiate through `rollout` to unroll."
        )
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")
    optimizer = as_optimizer(optimizer)
    if key is None:
        shape = (num_steps, optimizer.samples_per_step)
        samples = jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), sample)
    else:
        samples = stack_samples(problem, key, num_steps, optimizer.samples_per_step)
    rest = (problem, optimizer, method, sample, samples, num_steps)
    return _respond((hyperparameters, weights), rest)


@eqx.filter_custom_vjp
def _respond(players: tuple[PyTree, PyTree], rest: tuple[Any, ...]) -> PyTree:
    hyperparameters, weights = players
    problem, optimizer, _, _, samples, num_steps = rest
    own = InnerProblem(problem, hyperparameters)
    carry = ((weights,), optimizer.init(own, (weights,), jax.random.key(0)))
    return rollout(OptimizerStep(own, optimizer), carry, samples, num_steps=num_steps, throw=False).carry[0][0]


@_respond.def_fwd
def _forward(perturbed, players, rest):
    del perturbed
    response = _respond(players, rest)
    return response, response


@_respond.def_bwd
def _backward(response, cotangent, perturbed, players, rest):
    hyperparameters, weights = players
    problem, _, method, sample, _, _ = rest
    cotangent = jax.tree.map(lambda c, w: jnp.zeros_like(w) if c is None else c, cotangent, response, is_leaf=_is_none)
    cotangent_of = method.pull(problem, (hyperparameters, response), sample, cotangent, jax.tree.leaves(perturbed[0]))
    return cotangent_of, jax.tree.map(jnp.zeros_like, weights)


def _is_none(x: Any) -> bool:
    return x is None
