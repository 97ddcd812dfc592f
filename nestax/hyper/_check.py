"""`check_hypergradient`: how far a method is off, measured on a small copy of the problem."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from .._nested import InnerProblem
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players, Sample
from .._rollout import RESULTS, rollout
from .._step import OptimizerStep
from ..optimizers import as_optimizer
from ._curvature import outer_loss
from ._dense import Exact
from ._hypergradient import check_pair, hypergradient
from ._method import AbstractMethod, Implicit


@dataclasses.dataclass(frozen=True)
class HypergradientCheck:
    """What `check_hypergradient` returns. Numbers that were not measured are NaN.

    - `error`: the distance to the exact hypergradient at these weights in float64, over its length.
    - `cosine`: that of the angle between the two.
    - `residual`, `inner_gradient_norm`: those of the method's own info.
    - `directional`: the exact hypergradient along each direction; `differences`: the finite differences of the outer
      loss after training anew, along the same; `difference_error`: the largest distance of the two, over the largest
      of the differences. Large where the weights were not at a minimum: then the exact hypergradient is not that of
      training.
    """

    error: float
    cosine: float
    residual: float
    inner_gradient_norm: float
    directional: np.ndarray
    differences: np.ndarray
    difference_error: float

    def __str__(self) -> str:
        lines = [
            f"off by {self.error:.2g} of its length (cosine {self.cosine:.4f}) from the exact hypergradient",
            f"relative residual {self.residual:.2g}, norm of the inner gradient {self.inner_gradient_norm:.2g}",
        ]
        if len(self.differences):
            lines.append(f"exact hypergradient and retraining differ by {self.difference_error:.2g}")
        return "\n".join(lines)


def check_hypergradient(
    problem: AbstractProblem,
    players: Players,
    sample: Sample = None,
    method: AbstractMethod | None = None,
    *,
    optimizer: AbstractOptimizer | optax.GradientTransformation | None = None,
    num_steps: int = 1000,
    num_directions: int = 3,
    step: float = 1e-3,
) -> HypergradientCheck:
    r"""Measures how far the hypergradient of `method` is off, against two independent truths.

    The first is `Implicit(Exact(pinv=True))` at the same weights, in float64 whatever the settings: it judges the
    linear solver, and needs the whole Hessian, so take a small copy of the problem: a narrower network, fewer
    examples. The second, where an `optimizer` is given, are central differences $(L_V(\lambda + \varepsilon u) -
    L_V(\lambda - \varepsilon u)) / 2\varepsilon$ along random unit vectors $u$, with the weights trained anew from
    where they are: it judges implicit differentiation itself. It is only as good as the training, so train until the
    inner gradient is tiny.

    **Arguments:**

    - `problem`, `players`, `sample`, `method`: as for `hypergradient`.
    - `optimizer`, `num_steps`: the inner optimizer and its steps for the differences, on the given sample; default
      `None`, no differences.
    - `num_directions`, `step`: how many $u$, and $\varepsilon$. Defaults 3 and 1e-3, in float64.

    **Returns** a `HypergradientCheck`; print it.

    **Raises** `ValueError` for a problem that has not two players, for more weights than `Exact` takes, or where
    training for the differences led to inf or NaN.

    **Example:** one term of a series is not enough.

    ```python
    >>> import jax.numpy as jnp, nestax as nx, optax
    >>> class Toy(nx.AbstractNested, nx.AbstractDeterministicProblem):
    ...     def init(self, key):
    ...         return jnp.ones(2), jnp.ones(2)
    ...     def outer_loss(self, hyperparameters, weights, sample):
    ...         return 0.5 * jnp.sum((weights - 3) ** 2)
    ...     def inner_loss(self, hyperparameters, weights, sample):
    ...         return jnp.sum(jnp.array([1, 0.1]) * (weights - hyperparameters) ** 2)
    >>> players = jnp.ones(2), jnp.ones(2)
    >>> for solver in (nx.hyper.Identity(), nx.hyper.MINRES()):
    ...     method = nx.hyper.Implicit(solver, residual=False)
    ...     check = nx.hyper.check_hypergradient(
    ...         Toy(), players, None, method, optimizer=optax.sgd(0.4), num_steps=200)
    ...     print(f"{check.error:.2f} {check.difference_error:.2f}")
    0.91 0.00
    0.00 0.00

    ```
    """
    players = check_pair(problem, players)
    given = hypergradient(problem, players, sample, method, throw=False)
    gradient = np.asarray(ravel_pytree(given.gradient)[0], float)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        problem, players, sample = _double((problem, players, sample))
        exact = hypergradient(problem, players, sample, Implicit(Exact(pinv=True), residual=False), throw=False)
        truth = np.asarray(ravel_pytree(exact.gradient)[0])
        directional, differences = np.zeros(0), np.zeros(0)
        if optimizer is not None:
            # not from a key of JAX, whose defaults may differ: any few directions will do
            directions = np.random.default_rng(0).normal(size=(num_directions, truth.size))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            directional = directions @ truth
            differences = _differences(
                problem, players, sample, _double(as_optimizer(optimizer)), num_steps, jnp.asarray(step * directions)
            )
    length, own = np.linalg.norm(truth), np.linalg.norm(gradient)
    with np.errstate(divide="ignore", invalid="ignore"):
        wrong = np.abs(directional - differences / step).max(initial=0) / np.abs(differences / step).max(initial=0)
        return HypergradientCheck(
            error=float(np.linalg.norm(gradient - truth) / length),
            cosine=float(gradient @ truth / (own * length)),
            residual=float(given.info.residual),
            inner_gradient_norm=float(given.info.inner_gradient_norm),
            directional=directional,
            differences=differences / step,
            difference_error=float(wrong),
        )


def _differences(
    problem: AbstractProblem, players: Players, sample: Sample, optimizer: AbstractOptimizer, num_steps: int, moves: Any
) -> np.ndarray:
    """Half the change of the outer loss between weights that are trained at both ends of every move."""
    flat, unravel = ravel_pytree(players[0])
    shape = (num_steps, optimizer.samples_per_step)
    samples = jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *x.shape)), sample)

    @jax.jit
    def value(shift: Any) -> Any:
        hyperparameters = unravel(flat + shift)
        inner = InnerProblem(problem, hyperparameters)
        carry = ((players[1],), optimizer.init(inner, (players[1],), jax.random.key(0)))
        out = rollout(OptimizerStep(inner, optimizer), carry, samples, num_steps=num_steps, throw=False)
        return outer_loss(problem, hyperparameters, out.carry[0][0], sample), out.result == RESULTS.successful

    halves = []
    for move in moves:
        (high, fine), (low, also) = value(move), value(-move)
        if not (fine and also):
            raise ValueError("Training for the finite differences led to inf or NaN. Lower the rate of `optimizer`.")
        halves.append(float(high - low) / 2)
    return np.asarray(halves)


def _double(tree: PyTree) -> PyTree:
    """Every floating-point array in float64."""

    def leaf(x: Any) -> Any:
        real = isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(x, jnp.float64) if real else x

    return jax.tree.map(leaf, tree)
