"""Methods for hypergradients: the interface, what they return, and implicit differentiation."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._checks import check_arrays, is_concrete, named, nonnegative
from .._problem import AbstractProblem, Players, Sample
from .._tree import dot
from ._curvature import AbstractCurvature, Hessian, Operator, inner_loss, outer_loss
from ._inverse import AbstractInverse, SolverInfo, solver_info, vector_dtype
from ._minres import MINRES
from ._structure import apply_and_trace

LARGE_RESIDUAL = 0.1
"""Relative residuals above this are warned of."""

MORE_ACCURACY = (
    "Take more of its steps or terms, or `MINRES()`, or pass `damping`; `check_hypergradient` measures the error. "
    "Where a rough inverse is meant, pass `Implicit(..., residual=False)`."
)


class Batches(eqx.Module):
    """Several samples for one hypergradient.

    - `outer`: the sample of the outer loss.
    - `inner`: the samples of the inner loss, stacked on a leading axis: one per unrolled step, or one per term of a
      Neumann series, of which the first is also that of the mixed derivative.

    A single sample in place of `Batches` serves everywhere.
    """

    outer: Sample
    inner: Sample

    def __check_init__(self):
        check_arrays(self.outer, "outer")
        check_arrays(self.inner, "inner")

    def at(self, index: Any) -> Sample:
        """The inner sample number `index`."""
        return jax.tree.map(lambda x: x[index], self.inner)


class HypergradientInfo(eqx.Module):
    r"""What a hypergradient tells of itself. A number that a method does not measure is NaN.

    - `inner_loss`: the inner loss at the weights, on the first inner sample.
    - `inner_gradient_norm`: $\lVert \partial L_T / \partial w \rVert$ there. Implicit differentiation assumes zero: the
      bias is bounded by this number times constants, one of which is $\lVert H^{-1} \rVert$.
    - `residual`: $\lVert (C + \rho I) x - v \rVert / \lVert v \rVert$ of the linear system, from a product of its
      own. Small where the hypergradient is right, but not only there: the relative error may be larger by the condition
      number.
    - `largest_safe_alpha`: $2 / \hat\lambda_{\max}$, with the solver's estimate of the largest eigenvalue, which is
      from below: a Neumann series with a larger $\alpha$ diverges.
    - `solver`: a `SolverInfo`: products, Rayleigh quotients, and flags for a divergent series, negative curvature and a
      singular matrix. For an unrolled method `diverged` says that a weight became inf or NaN.
    """

    inner_loss: Float[Array, ""]
    inner_gradient_norm: Float[Array, ""]
    residual: Float[Array, ""]
    largest_safe_alpha: Float[Array, ""]
    solver: SolverInfo


class Hypergradient(eqx.Module):
    r"""What `hypergradient` returns.

    - `value`: the outer loss at `weights`.
    - `gradient`: $dL_V / d\lambda$, with the structure of the hyperparameters.
    - `weights`: where the outer loss was evaluated: as given, or at the end of an unroll.
    - `adjoint`: $x \approx H^{-1} v$, a start for the next solve; `None` for an unrolled method.
    - `info`: a `HypergradientInfo`.
    """

    value: Float[Array, ""]
    gradient: PyTree
    weights: PyTree
    adjoint: PyTree | None
    info: HypergradientInfo


class AbstractMethod(eqx.Module):
    """A way to compute, or to approximate, the gradient of the outer loss through the response of the weights."""

    @property
    def num_batches(self) -> int | None:
        """How many inner samples it uses, as `Batches`; `None` is one."""
        return None

    @property
    def warm_start(self) -> bool:
        """Whether it makes use of the adjoint of the previous outer step."""
        return False

    @property
    def needs_inner_steps(self) -> bool:
        """Whether the weights are trained by inner steps alone, and not by the method, or before."""
        return True

    def prepare(self, problem: AbstractProblem) -> AbstractProblem:
        """The problem that `tune` works on. By default the given one; a method may put others variables in it."""
        return problem

    def start(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> Players:
        """The players of the prepared `problem` that stand for those of the given one."""
        del problem, key
        return players

    def original(self, problem: AbstractProblem, players: Players) -> Players:
        """Hyperparameters and weights of the given problem, from the players of the prepared `problem`."""
        del problem
        return players

    def measure(self, players: Players) -> dict[str, Float[Array, ""]]:
        """Numbers of its own for the records of `tune`. By default none."""
        del players
        return {}

    def review(self, players: Players) -> str | None:
        """A warning for the end of `tune`, given the last players of the prepared problem; or `None`."""
        del players

    def with_tolerance(self, tolerance: Float[Array, ""]) -> "AbstractMethod":
        """The same method with this absolute tolerance on its linear system. By default there is none to set."""
        del tolerance
        return self

    @abc.abstractmethod
    def __call__(
        self, problem: AbstractProblem, players: Players, batches: Sample | Batches, guess: PyTree | None
    ) -> Hypergradient:
        """The hypergradient at `players`; `guess` is an adjoint to start from."""

    @abc.abstractmethod
    def diagnose(self, info: HypergradientInfo) -> tuple[str | None, str | None]:
        """An error and a warning, each `None` or a sentence with numbers and advice, of a concrete info."""


class Implicit(AbstractMethod):
    r"""Implicit differentiation (Lorraine, Vicol and Duvenaud, 2020, Algorithm 2; Larsen et al., 1996; Bengio, 2000):

    $$\frac{dL_V}{d\lambda} = \frac{\partial L_V}{\partial\lambda} - x^\top \frac{\partial^2 L_T}{\partial w \, \partial
    \lambda^\top}, \qquad x = (C + \rho I)^{-1} \frac{\partial L_V}{\partial w}$$

    exact for an exact inverse of the Hessian at weights with $\partial L_T / \partial w = 0$. The mixed derivative is
    one vector product. Memory does not grow with the number of terms: a linearization of the inner gradient and a few
    vectors of the size of the weights. The minus is essential; published scripts differ, and are wrong where they do.

    The inner loss must be twice differentiable where it is evaluated: kinks (ReLU, max-pooling, L1) carry curvature
    that the Hessian does not see, and an L1 penalty has none at all. Use smooth penalties, or unroll.

    **Arguments:**

    - `solver`: how to multiply by the inverse; default `MINRES()`.
    - `curvature`: $C$, default `Hessian()`; or `GaussNewton()`, `EmpiricalFisher()`.
    - `damping`: $\rho \ge 0$, a learnable leaf, default 0. It makes a singular or slightly indefinite curvature
      positive, and biases the hypergradient towards that of a short training.
    - `residual`: measure `info.residual`, for one product more, and warn where it is above 0.1. Default `True`; switch
      it off where every product counts, or where a rough inverse is meant.

    **Raises** `ValueError` for negative damping, or none with a solver that needs it.
    """

    solver: AbstractInverse = eqx.field(default_factory=MINRES)
    curvature: AbstractCurvature = eqx.field(default_factory=Hessian)
    damping: Float[Array, ""] = eqx.field(converter=named(nonnegative, "damping"), default=0.0)
    residual: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        known = isinstance(self.damping, jax.Array) and is_concrete(self.damping)
        if self.solver.needs_damping and known and not jnp.all(self.damping > 0):
            raise ValueError(
                f"`{type(self.solver).__name__}` inverts a low-rank matrix plus damping: pass "
                "`Implicit(..., damping=...)` above 0, for example 0.01."
            )

    @property
    def num_batches(self) -> int | None:
        return self.solver.num_batches

    @property
    def warm_start(self) -> bool:
        return self.solver.warm_start

    def with_tolerance(self, tolerance):
        return Implicit(self.solver.with_tolerance(tolerance), self.curvature, self.damping, self.residual)

    def __call__(self, problem, players, batches, guess):
        outer, first, several = self._split(batches)
        value, pullback = jax.vjp(lambda p: outer_loss(problem, p[0], p[1], outer), players)
        (direct, vector), direct_uses = apply_and_trace(lambda c: pullback(c)[0], jnp.ones_like(value))
        x, indirect, mixed_uses, info = self.adjoint(problem, players, first, vector, guess, several)
        _check_enters(players[0], direct_uses, mixed_uses)
        gradient = jax.tree.map(jnp.subtract, direct, indirect)
        return Hypergradient(value, gradient, players[1], x, info)

    def adjoint(self, problem, players, sample, vector, guess=None, several=None):
        """The adjoint of `vector`, its product with the mixed derivative, which leaves of it exist, and the info."""
        hyperparameters, weights = players
        loss, gradient, product = self.curvature.linearize(problem, hyperparameters, weights, sample)

        operator = Operator(product, self.damping, self._fresh(problem, players, several))
        x, solver = self.solver.solve(operator, vector, guess)

        # x'M as the gradient of the directional derivative of the inner loss along x: reverse over forward
        def mixed(x):
            def along(h):
                return jax.jvp(lambda w: inner_loss(problem, h, w, sample), (weights,), (x,))[1]

            return jax.grad(along)(hyperparameters)

        indirect, uses = apply_and_trace(mixed, x)
        residual = jnp.full_like(solver.condition, jnp.nan)
        if self.residual:
            error = jax.tree.map(jnp.subtract, operator(x), vector)
            size = dot(vector, vector)
            residual = jnp.sqrt(dot(error, error) / jnp.where(size > 0, size, 1))
        info = HypergradientInfo(
            loss, jnp.sqrt(dot(gradient, gradient)), residual, 2 / solver.largest_eigenvalue, solver
        )
        return x, indirect, uses, info

    def pull(
        self,
        problem: AbstractProblem,
        players: Players,
        sample: Sample,
        cotangent: PyTree,
        wanted: list[bool] | None = None,
    ) -> PyTree:
        r"""The cotangent $v^\top \partial w^* / \partial \lambda = -x^\top M$ of the hyperparameters.

        `wanted` says which leaves must enter the inner loss; `None`: all.
        """
        _, indirect, uses, _ = self.adjoint(problem, players, sample, cotangent)
        idle = [not w for w in wanted] if wanted is not None else [False] * len(uses)
        _check_enters(players[0], idle, uses)
        return jax.tree.map(jnp.negative, indirect)

    def _fresh(self, problem, players, several):
        if several is None:
            return None

        def product(vector, index):
            return self.curvature.linearize(problem, players[0], players[1], several.at(index))[2](vector)

        return product

    def _split(self, batches):
        """The outer sample, the first inner one, and all of the inner ones if every product has its own."""
        if not isinstance(batches, Batches):
            return batches, batches, None
        count = {x.shape[0] for x in jax.tree.leaves(batches.inner)} or {1}
        if count == {1}:
            return batches.outer, batches.at(0), None
        if count != {self.num_batches}:
            wanted = 1 if self.num_batches is None else self.num_batches
            raise ValueError(
                f"`Batches.inner` stacks {', '.join(map(str, sorted(count)))} samples, but this "
                f"{type(self.solver).__name__} takes {wanted}. Only `Neumann(fresh_batches=True)` uses several, one "
                "for each of its terms; all others need one operator."
            )
        return batches.outer, batches.at(0), batches

    def diagnose(self, info):
        solver = info.solver
        if solver.singular:
            return (
                f"The curvature is singular: its smallest pivot is {1 / float(solver.condition):.2g} of the largest. "
                "Pass `damping`, `Exact(pinv=True)` for the pseudo-inverse, or use `Neumann`, which is finite here."
            ), None
        if solver.diverged:
            top, low = float(solver.largest_eigenvalue), float(solver.min_rayleigh)
            if solver.indefinite:
                return (
                    f"The Neumann series diverged: the curvature is negative ({low:.3g}) along some direction, so no "
                    f"alpha makes it converge. Take more inner steps, `damping` above {-low:.3g}, fewer terms, "
                    "`GaussNewton()`, or `NormalCG`."
                ), None
            return (
                f"The Neumann series diverged and was cut off: the largest eigenvalue is about {top:.3g}, so the "
                f'largest safe alpha is {2 / top:.3g}. Lower alpha, or pass alpha="auto".'
            ), None
        if not jnp.isfinite(info.residual) and self.residual:
            return (
                "The solution of the linear system is not finite. Look at the inner loss and its gradient "
                f"(norm {float(info.inner_gradient_norm):.3g}) at these weights, or pass `damping`."
            ), None
        warnings = []
        if solver.indefinite:
            warnings.append(
                f"{type(self.solver).__name__} met negative curvature (a Rayleigh quotient of "
                f"{float(solver.min_rayleigh):.3g}): the weights are not at a minimum of the inner loss, whose "
                f"gradient has norm {float(info.inner_gradient_norm):.3g}. Take more inner steps, or pass `damping` or "
                "`GaussNewton()`."
            )
        if self.residual and info.residual > LARGE_RESIDUAL:
            warnings.append(
                f"{type(self.solver).__name__} solved its linear system to a relative residual of "
                f"{float(info.residual):.2g} only: the hypergradient may be far off. {MORE_ACCURACY}"
            )
        return None, " ".join(warnings) or None


class Direct(AbstractMethod):
    r"""The direct gradient alone, $\partial L_V / \partial\lambda$: the weights' response is taken to be zero.

    The baseline of the field. It is zero where hyperparameters act through the weights only.
    """

    def __call__(self, problem, players, batches, guess):
        del guess
        outer, first = (batches.outer, batches.at(0)) if isinstance(batches, Batches) else (batches, batches)
        hyperparameters, weights = players
        value, gradient = jax.value_and_grad(lambda h: outer_loss(problem, h, weights, outer))(hyperparameters)
        return Hypergradient(value, gradient, weights, None, plain_info(problem, players, first))

    def diagnose(self, info):
        return None, None


def plain_info(
    problem: AbstractProblem, players: Players, sample: Sample, diverged: Bool[Array, ""] | bool = False
) -> HypergradientInfo:
    """The info of a method that solves no linear system."""
    loss, gradient = jax.value_and_grad(lambda w: inner_loss(problem, players[0], w, sample))(players[1])
    dtype = vector_dtype(players[1])
    nan = jnp.asarray(jnp.nan, dtype)
    norm = jnp.sqrt(dot(gradient, gradient))
    return HypergradientInfo(loss, norm, nan, nan, solver_info(dtype, 0, diverged=diverged))


def _check_enters(hyperparameters: PyTree, direct: list[bool], mixed: list[bool]) -> None:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(hyperparameters)]
    idle = [jax.tree_util.keystr(p) for p, d, m in zip(paths, direct, mixed) if not d and not m]
    if idle:
        names = ", ".join(f"`hyperparameters{name}`" for name in idle)
        raise ValueError(
            f"{names} does not enter the gradient of the inner loss, so implicit differentiation sees no influence on "
            "the weights. A hyperparameter of the optimizer, such as a learning rate, needs `Unrolled`; one that is "
            "not used at all should be left out."
        )
