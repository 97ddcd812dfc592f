"""Saddle problems in one variable a side: convex-concave with and without rotation, and a seesaw with many roots."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import check_finite, is_concrete
from .._problem import AbstractDeterministicProblem, AbstractMinimax
from .._resolvent import AbstractResolvent, check_step_size
from .._tree import as_float_array

Interval = tuple[ArrayLike, ArrayLike] | Float[Array, "2"]
"""Both ends, as a pair or as an array, which many intervals can share a compilation by."""

Point = tuple[Float[Array, ""], Float[Array, ""]]


class AbstractSaddleProblem(AbstractMinimax, AbstractDeterministicProblem):
    """A deterministic zero-sum game whose saddle set is known."""

    @abc.abstractmethod
    def distances(self, players: Any) -> Point:
        """The Euclidean distance of each player to its part of the saddle set (of the nearest saddle point)."""


def uniform_start(key: PRNGKeyArray, shapes: tuple[tuple[int, ...], ...], bound: Float[Array, ""]) -> PyTree:
    """One array per shape, uniform on `[-bound, bound]`."""
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.uniform(k, s, bound.dtype, -bound, bound) for k, s in zip(keys, shapes))


def as_scalar_parameter(x: ArrayLike, name: str, nonnegative: bool = False) -> Float[Array, ""]:
    """`x` as a finite scalar array; `ValueError` otherwise."""
    x = as_float_array(x)
    if x.shape != ():
        raise ValueError(f"`{name}` must be a number, got shape {x.shape}. For a batch of games use `jax.vmap`.")
    check_finite(x, name)
    if nonnegative and is_concrete(x) and x < 0:
        raise ValueError(f"`{name}` must not be negative, got {x}: the game would not be convex-concave.")
    return x


def uniform_between(key: PRNGKeyArray, interval: Interval) -> Float[Array, ""]:
    """A number drawn uniformly from an interval, in the default dtype."""
    low, high = (as_float_array(x) for x in interval)
    return jax.random.uniform(key, (), low.dtype, low, high)


class PairResolvent(AbstractResolvent):
    r"""$(I + \alpha M)^{-1} u$ with $M = \begin{pmatrix} p & c \\ -c & q \end{pmatrix}$, for two numbers."""

    step_size: Float[Array, ""]
    p: Float[Array, ""]
    q: Float[Array, ""]
    c: Float[Array, ""]

    def __call__(self, players: Point) -> Point:
        x, y = players
        p, q, c = (self.step_size.astype(x.dtype) * k.astype(x.dtype) for k in (self.p, self.q, self.c))
        determinant = (1 + p) * (1 + q) + c**2
        return ((1 + q) * x - c * y) / determinant, ((1 + p) * y + c * x) / determinant


class AbstractQuadraticSaddle(AbstractSaddleProblem):
    r"""$a x^2 - b y^2 + r x y$ with a fixed $r$: players, arguments and solution of `Saddle` and `RotatedSaddle`."""

    rotation: ClassVar[float]

    a: Float[Array, ""] = eqx.field(converter=lambda x: as_scalar_parameter(x, "a", True))
    b: Float[Array, ""] = eqx.field(converter=lambda x: as_scalar_parameter(x, "b", True))
    start_bound: Float[Array, ""] = eqx.field(converter=as_float_array, default=0.5)

    @classmethod
    def random(
        cls,
        key: PRNGKeyArray,
        *,
        a: Interval = (0.9, 1.0),
        b: Interval = (0.9, 1.0),
        start_bound: ArrayLike = 0.5,
    ) -> "AbstractQuadraticSaddle":
        """A game with `a` and `b` drawn uniformly from intervals. Defaults as published."""
        keys = jax.random.split(key)
        return cls(uniform_between(keys[0], a), uniform_between(keys[1], b), start_bound)

    def init(self, key: PRNGKeyArray) -> Point:
        return uniform_start(key, ((), ()), self.start_bound.astype(self.a.dtype))

    def payoff(self, players: Point, sample: None) -> Float[Array, ""]:
        del sample
        x, y = players
        apart = self.a.astype(x.dtype) * x**2 - self.b.astype(x.dtype) * y**2
        return apart + self.rotation * x * y if self.rotation else apart

    def solution(self) -> Point:
        """The saddle point: the origin."""
        return jnp.zeros_like(self.a), jnp.zeros_like(self.b)

    def distances(self, players: Point) -> Point:
        """The absolute values of both players."""
        return jnp.abs(players[0]), jnp.abs(players[1])

    def resolvent(self, step_size: ArrayLike) -> PairResolvent:
        """In closed form, by Cramer's rule."""
        rotation = jnp.full_like(self.a, self.rotation)
        return PairResolvent(check_step_size(step_size), 2 * self.a, 2 * self.b, rotation)


class Saddle(AbstractQuadraticSaddle):
    r"""$\min_x \max_y a x^2 - b y^2$: two problems that have nothing to do with each other.

    The saddle point is the origin. Players are two numbers; `init` draws them uniformly from
    $[-s, s]$ with $s$ = `start_bound`, in the dtype of `a`.

    **Arguments:**

    - `a`, `b`: the curvatures, at least 0.
    - `start_bound`: $s$. Default 0.5, as published.

    **Raises** `ValueError` for what is no number, not finite or negative.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Saddle.random(jax.random.key(0))
    >>> batch = jax.vmap(nx.problems.Saddle.random)(jax.random.split(jax.random.key(0), 100))  # as many instances
    >>> batch.a.shape
    (100,)

    ```

    **Source:** J. Shen, X. Chen, H. Heaton, T. Chen, J. Liu, W. Yin, Z. Wang, *Learning a minimax optimizer: a pilot
    study*, ICLR 2021, section 4.
    """

    rotation: ClassVar[float] = 0.0


class RotatedSaddle(AbstractQuadraticSaddle):
    r"""$\min_x \max_y a x^2 - b y^2 + 2 x y$: strongly convex-concave, with rotation.

    The joint gradient is $(2 a x + 2 y, 2 b y - 2 x)$, the saddle point is the origin. Players and arguments as those
    of `Saddle`.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.RotatedSaddle(0.9, 1.0)
    >>> x, y = problem.resolvent(0.5)((jnp.array(1.0), jnp.array(1.0)))  # solves p + 0.5 g(p) = (1, 1)
    >>> [round(float(v), 6) for v in (x + 0.5 * (1.8 * x + 2 * y), y + 0.5 * (2.0 * y - 2 * x))]
    [1.0, 1.0]

    ```

    **Source:** Shen et al., ICLR 2021, section 4.
    """

    rotation: ClassVar[float] = 2.0


class Seesaw(AbstractSaddleProblem):
    r"""$\min_x \max_y -b\, y \sin(a \pi x)$: not convex in $x$, linear in $y$, with a root at every $x = k / a$.

    The points $(k / a, 0)$ with integer $k$ are saddle points, where $f(x^*, y) = f(x^*, y^*) = f(x, y^*) = 0$, and
    the only stationary ones; to first order each is a bilinear game with the eigenvalues $\pm i a b \pi$, so gradient
    methods circle. Small $a$ or $b$ make it flat, and large $a$ makes its basins narrow.

    Players are two numbers; `init` draws them uniformly from $[-s, s]$ with $s$ = `start_bound`, in the dtype of `a`.

    **Arguments:**

    - `a`, `b`: frequency and amplitude.
    - `start_bound`: $s$. Default 0.5, as published.

    The nearest saddle point of $x$ has $k = \operatorname{round}(a x)$, and $k = 0$ where $a = 0$. Compute distances
    in float64: for huge $|x|$ the product $a x$ loses its fraction, and a diverged $x$ looks like a root.

    **Raises** `ValueError` for what is no number or not finite.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.Seesaw(2.0, 1.0)
    >>> x, y = problem.distances((jnp.array(0.4), jnp.array(-0.25)))  # the nearest root is 1/2
    >>> round(float(x), 6), float(y)
    (0.1, 0.25)
    >>> wide = nx.problems.Seesaw.random(jax.random.key(0), **nx.catalogue.SEESAW_RANGES[7])

    ```

    **Source:** J. Hamm, Y.-K. Noh, *K-beam minimax: efficient optimization for deep adversarial learning*, ICML 2018;
    with random coefficients Shen et al., ICLR 2021, Table 1.
    """

    a: Float[Array, ""]
    b: Float[Array, ""]
    start_bound: Float[Array, ""]

    def __init__(self, a: ArrayLike, b: ArrayLike, start_bound: ArrayLike = 0.5):
        self.a, self.b = as_scalar_parameter(a, "a"), as_scalar_parameter(b, "b")
        self.start_bound = as_float_array(start_bound).astype(self.a.dtype)

    @classmethod
    def random(
        cls,
        key: PRNGKeyArray,
        *,
        a: Interval = (0.0, 5.0),
        b: Interval = (0.0, 2.0),
        start_bound: ArrayLike = 0.5,
    ) -> "Seesaw":
        """A game with `a` and `b` drawn uniformly from intervals. Default: the widest of the published ones."""
        keys = jax.random.split(key)
        return cls(uniform_between(keys[0], a), uniform_between(keys[1], b), start_bound)

    def init(self, key: PRNGKeyArray) -> Point:
        return uniform_start(key, ((), ()), self.start_bound)

    def payoff(self, players: Point, sample: None) -> Float[Array, ""]:
        del sample
        x, y = players
        return -self.b.astype(x.dtype) * y * jnp.sin(self.a.astype(x.dtype) * jnp.asarray(jnp.pi, x.dtype) * x)

    def solution(self) -> Point:
        """A saddle point: the origin."""
        return jnp.zeros_like(self.a), jnp.zeros_like(self.b)

    def distances(self, players: Point) -> Point:
        r"""$\min_k |x - k / a|$ over the integers, and $|y|$."""
        x, y = players
        a = self.a.astype(x.dtype)
        k = jnp.round(a * x)
        root = jnp.where(k == 0, jnp.zeros_like(x), k / jnp.where(a == 0, jnp.ones_like(a), a))
        return jnp.abs(x - root), jnp.abs(y)
