"""`hypergradient`: the gradient of the outer loss with respect to the hyperparameters."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._checks import check_arrays
from .._mesh import Devices, shard_examples
from .._problem import AbstractProblem, Players, Sample, check_players, check_sample
from .._rollout import NumericalError
from .._tree import check_same_structure
from ._method import AbstractMethod, Batches, Hypergradient, Implicit


def hypergradient(
    problem: AbstractProblem,
    players: Players,
    batches: Sample | Batches = None,
    method: AbstractMethod | None = None,
    *,
    guess: PyTree | None = None,
    inner_tolerance: float | None = None,
    mesh: Devices = None,
    throw: bool = True,
) -> Hypergradient:
    r"""The gradient of the outer loss with respect to the hyperparameters, through the weights that they lead to.

    Compiled once per structure of its arguments: a new value of any array leaf ($\alpha$, damping, data) does not
    retrace. Where a hyperparameter does not enter the outer loss its direct gradient is zero.

    **Arguments:**

    - `problem`: a problem of two players: hyperparameters with the outer loss first, weights with the inner loss
      second. An `AbstractNested`, or any other.
    - `players`: `(hyperparameters, weights)`, two pytrees of floating-point arrays.
    - `batches`: one sample of the problem, on which everything is evaluated, its key held fixed; default `None`, for a
      deterministic problem. Or `Batches`, where methods that can use several samples get their own.
    - `method`: default `Implicit()`: at most a hundred steps of `MINRES`. See `Implicit`, `Unrolled`.
    - `guess`: an `adjoint` of a hypergradient nearby, from which iterative solvers start.
    - `inner_tolerance`: warn where the inner gradient is longer than this. Default `None`: only `info` says it.
    - `mesh`: which devices share the examples of a batch, the leading axis of all its arrays: a number of devices, or
      a `jax.sharding.Mesh`, that divides it. Default `None`: all devices of this process where there is such an axis,
      and they divide it, else one.
    - `throw`: outside `jit` and `vmap`, raise `NumericalError` for a divergent series, a singular matrix or a value
      that is not finite, and warn of negative curvature and of a residual above 0.1. Inside, or with `False`, only
      `info` says it.

    **Returns** a `Hypergradient`.

    **Raises** `ValueError` for a problem that has not two players, or a hyperparameter that enters neither loss in a
    way that the method could see; `NumericalError` as above.

    **Example:** the best response to $\lambda$ is $w = \lambda$, so that $dL_V/d\lambda = w - 3$.

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> class Toy(nx.AbstractNested, nx.AbstractDeterministicProblem):
    ...     def init(self, key):
    ...         return jnp.ones(2), jnp.ones(2)
    ...     def outer_loss(self, hyperparameters, weights, sample):
    ...         return 0.5 * jnp.sum((weights - 3) ** 2)
    ...     def inner_loss(self, hyperparameters, weights, sample):
    ...         return jnp.sum((weights - hyperparameters) ** 2)
    >>> out = nx.hyper.hypergradient(Toy(), (jnp.ones(2), jnp.ones(2)))
    >>> out.gradient.tolist()
    [-2.0, -2.0]

    ```
    """
    players = check_pair(problem, players)
    method = Implicit() if method is None else method
    if not isinstance(method, AbstractMethod):
        raise ValueError(
            f"`method` must be a hypergradient method such as `Implicit(MINRES())` or `Unrolled(optimizer, 20)`, got "
            f"{method!r}."
        )
    if isinstance(batches, Batches):
        check_arrays((batches.outer, batches.inner), "batches")
    else:
        check_sample(problem, batches, "batches")
    if guess is not None:
        check_arrays(guess, "guess")
        check_same_structure(guess, players[1], "guess")
    out = _hypergradient(*_share(mesh, problem, players, batches, method, guess))
    if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(out)):
        _raise_or_warn(method, out, inner_tolerance, throw)
    return out


def _share(mesh: Devices, problem, players, batches, method, guess) -> tuple[Any, ...]:
    rest = problem, players, method, guess
    if isinstance(batches, Batches):
        outer, rest = shard_examples(mesh, batches.outer, 0, rest)
        inner, rest = shard_examples(mesh, batches.inner, 1, rest)
        batches = Batches(outer, inner)
    else:
        batches, rest = shard_examples(mesh, batches, 0, rest)
    problem, players, method, guess = rest
    return problem, players, batches, method, guess


@eqx.filter_jit
def _hypergradient(problem, players, batches, method, guess):
    return method(problem, players, batches, guess)


def _raise_or_warn(method: AbstractMethod, out: Hypergradient, inner_tolerance: float | None, throw: bool) -> None:
    norm = float(out.info.inner_gradient_norm)
    if inner_tolerance is not None and not norm <= inner_tolerance:
        warnings.warn(
            f"The inner problem is not solved: its gradient has norm {norm:.3g}, above {inner_tolerance:.3g}. The "
            "hypergradient is biased in proportion to it: take more inner steps.",
            stacklevel=3,
        )
    if throw:
        error, warning = method.diagnose(out.info)
        if error is not None:
            raise NumericalError(error)
        if warning is not None:
            warnings.warn(warning, stacklevel=3)


def check_pair(problem: AbstractProblem, players: Any, names: tuple[str, str] | None = None) -> Players:
    """Raises `ValueError` unless `players` are hyperparameters and weights."""
    if isinstance(players, tuple) and len(players) != 2:
        raise ValueError(
            f"A nested problem has two players, `(hyperparameters, weights)`, got {len(players)} for a "
            f"{type(problem).__name__}."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(players[0] if isinstance(players, tuple) else ()):
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.integer):
            raise ValueError(
                f"`hyperparameters{jax.tree_util.keystr(path)}` is discrete, of dtype {leaf.dtype}, so it has no "
                "gradient. Relax it to a real floating-point number, which is rounded inside the inner loss if it must "
                "be; then only a `Hypernetwork` has a hypergradient for it."
            )
    players = check_players(players, names)
    for part, name in zip(players, ("hyperparameters", "weights")):
        if not jax.tree.leaves(part):
            raise ValueError(f"The `{name}` hold no arrays, so there is nothing to differentiate.")
    return players
