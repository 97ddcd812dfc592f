"""Computation of resolvents: in closed form where the problem has one, else by a general solver."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .._checks import count, named
from .._gradients import joint_gradient
from .._problem import AbstractProblem, Players, Sample
from .._resolvent import check_step_size
from .._tree import add_scaled, upcast


class AbstractResolventSolver(eqx.Module):
    r"""A way to solve $p + \alpha g(p) = u$ with a problem's joint gradient $g$: to apply $J = (I + \alpha g)^{-1}$."""

    def prepare(self, problem: AbstractProblem, step_size: Float[Array, ""]) -> PyTree:
        """The part that is computed once per run, such as a factorization; an optimizer keeps it in its state. By
        default nothing."""
        del problem, step_size

    @abc.abstractmethod
    def apply(
        self, problem: AbstractProblem, players: Players, sample: Sample, step_size: Float[Array, ""], prepared: Any
    ) -> tuple[Players, int]:
        """$J(u)$, and how many joint gradients it has cost."""


class ClosedFormResolvent(AbstractResolventSolver):
    """The problem's own `resolvent`, prepared once per run; no gradients.

    **Raises** `ValueError` for a problem that has none.
    """

    def prepare(self, problem: AbstractProblem, step_size: Float[Array, ""]) -> PyTree:
        return problem.resolvent(step_size)

    def apply(
        self, problem: AbstractProblem, players: Players, sample: Sample, step_size: Float[Array, ""], prepared: Any
    ) -> tuple[Players, int]:
        del problem, sample, step_size
        return prepared(players), 0


def _gradient(problem: AbstractProblem, players: Players, sample: Sample, like: Players) -> Players:
    """The joint gradient at wide players, evaluated in the dtypes of `like`."""
    narrow = jax.tree.map(lambda x, p: x.astype(p.dtype), players, like)
    return upcast(joint_gradient(problem, narrow, sample)[1])


class FixedPointResolvent(AbstractResolventSolver):
    r"""The fixed-point iteration $p \leftarrow u - \alpha g(p)$ from $p = u$: one joint gradient per iteration.

    With the Lipschitz constant $L$ of $g$ it is a contraction for $\alpha L < 1$, and its error after $n$ iterations
    is at most $(\alpha L)^n \lVert u - J u \rVert$; for larger step sizes it may diverge. Extragradient is two of its
    iterations.

    **Arguments:** `num_steps`: $n$. Default 20, an error of $10^{-6}$ at $\alpha L = 1/2$.

    **Raises** `ValueError` for fewer than one.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> solver = nx.optimizers.FixedPointResolvent(num_steps=10)
    >>> optimizer = nx.optimizers.Halpern(0.2, resolvent=solver)  # on a problem without a closed form
    >>> solution = nx.solve(nx.problems.DiracGAN(), optimizer, num_steps=10, key=jax.random.key(0))
    >>> int(solution.info.cost.gradients[0]), int(solution.info.cost.resolvents[0])
    (10, 1)

    ```
    """

    num_steps: int = eqx.field(static=True, converter=named(count, "num_steps"), default=20)

    def apply(
        self, problem: AbstractProblem, players: Players, sample: Sample, step_size: Float[Array, ""], prepared: Any
    ) -> tuple[Players, int]:
        del prepared
        start = upcast(players)

        def iterate(p, _):
            return add_scaled(start, -step_size, _gradient(problem, p, sample, players)), None

        out, _ = jax.lax.scan(iterate, start, None, self.num_steps)
        return jax.tree.map(lambda x, p: x.astype(p.dtype), out, players), self.num_steps


class NewtonResolvent(AbstractResolventSolver):
    r"""Newton's method on $p + \alpha g(p) - u = 0$ from $p = u$, with the dense game Jacobian.

    For small problems, at any step size: a step solves a linear system of the size of all players together. Exact
    after one step where $g$ is affine; elsewhere it converges quadratically near the solution, and there is no
    safeguard far from it. A step counts as $1 + 2 d$ joint gradients for $d$ coordinates: each column of the Jacobian
    is a product.

    **Arguments:** `num_steps`: default 5.

    **Raises** `ValueError` for fewer than one.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> optimizer = nx.optimizers.Halpern(5.0, resolvent=nx.optimizers.NewtonResolvent())
    >>> solution = nx.solve(nx.problems.DiracGAN(), optimizer, num_steps=10, key=jax.random.key(0))

    ```
    """

    num_steps: int = eqx.field(static=True, converter=named(count, "num_steps"), default=5)

    def apply(
        self, problem: AbstractProblem, players: Players, sample: Sample, step_size: Float[Array, ""], prepared: Any
    ) -> tuple[Players, int]:
        del prepared
        start, unravel = ravel_pytree(upcast(players))
        alpha = step_size.astype(start.dtype)

        def excess(p):
            return p + alpha * ravel_pytree(_gradient(problem, unravel(p), sample, players))[0] - start

        def iterate(p, _):
            return p - jnp.linalg.solve(jax.jacfwd(excess)(p), excess(p)), None

        out, _ = jax.lax.scan(iterate, start, None, self.num_steps)
        out = jax.tree.map(lambda x, p: x.astype(p.dtype), unravel(out), players)
        return out, self.num_steps * (1 + 2 * start.size)


def as_resolvent_solver(resolvent: Any, name: str = "resolvent") -> AbstractResolventSolver:
    """A solver itself; `None` is the closed form; `ValueError` for anything else."""
    if resolvent is None:
        return ClosedFormResolvent()
    if not isinstance(resolvent, AbstractResolventSolver):
        raise ValueError(
            f"`{name}` must be a solver such as `nestax.optimizers.NewtonResolvent()`, or None for the problem's "
            f"closed form, got a {type(resolvent).__name__}."
        )
    return resolvent


class Resolvent(eqx.Module):
    """A solver with its step size: what an optimizer holds that takes implicit steps."""

    step_size: Float[Array, ""] = eqx.field(converter=check_step_size)
    solver: AbstractResolventSolver = eqx.field(converter=named(as_resolvent_solver, "solver"), default=None)

    def prepare(self, problem: AbstractProblem) -> PyTree:
        return self.solver.prepare(problem, self.step_size)

    def __call__(
        self, problem: AbstractProblem, players: Players, sample: Sample, prepared: PyTree
    ) -> tuple[Players, int]:
        return self.solver.apply(problem, players, sample, self.step_size, prepared)
