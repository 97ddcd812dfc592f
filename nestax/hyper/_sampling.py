"""Distributions of hyperparameters on which a hypernetwork is trained."""

import abc
import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import finite, flag, is_concrete, named, nonnegative, positive, scalar
from .._tree import common_dtype

Vector = Float[Array, " hyperparameters"]
Values = ArrayLike | PyTree
"""One number for all hyperparameters, or a pytree as they are, whose leaves may have fewer axes."""


class AbstractSampling(eqx.Module):
    r"""The distribution $p(\lambda)$, or $p(\lambda | \hat\lambda)$, on which a hypernetwork is trained.

    Hyperparameters are one vector here: their leaves, in order. A sampling also says what the hypernetwork is a
    function of, $\delta = (\lambda - \lambda_0) / \text{unit}$. One that learns its scale holds its initial value; the
    learned one is `spread`, a vector, which belongs to the outer player.
    """

    @property
    def adaptive(self) -> bool:
        """Whether its scale is learned, together with the hyperparameters."""
        return False

    @abc.abstractmethod
    def origin(self, hyperparameters: PyTree) -> Vector:
        r"""$\lambda_0$, given the current hyperparameters."""

    @abc.abstractmethod
    def unit(self, hyperparameters: PyTree) -> Vector:
        r"""The length of one unit of every element of $\delta$, a constant."""

    @abc.abstractmethod
    def draw(
        self, key: PRNGKeyArray, hyperparameters: PyTree, spread: Vector | None, num: int
    ) -> Float[Array, "num hyperparameters"]:
        """Draws `num` vectors of hyperparameters; differentiable in the current ones and the spread."""

    def initial_spread(self, hyperparameters: PyTree) -> Vector | None:
        """The initial spread; `None` where it is not learned."""
        del hyperparameters

    def entropy(self, spread: Vector | None) -> Float[Array, ""]:
        """What is subtracted from the outer loss: the weighted entropy of the distribution; zero where it is fixed."""
        del spread
        return jnp.zeros(())

    def deviation(self, spread: Vector) -> Vector:
        """The learned standard deviations."""
        raise ValueError(f"{type(self).__name__} learns no scale.")

    def collapsed(self, spread: Vector) -> Any:
        """Which of the learned standard deviations are at their lower bound."""
        raise ValueError(f"{type(self).__name__} learns no scale.")


class Around(AbstractSampling):
    r"""A normal distribution around the current hyperparameters: $N(\hat\lambda, \sigma^2 I)$. For local training.

    **Arguments:**

    - `scale`: $\sigma$, a standard deviation, one for all or a pytree. Default 0.05. Published is a *variance* of 1e-5,
      so $\sigma = 0.0032$, and 0 in the code. At 0 the hypernetwork is trained at one point, so its slopes are not
      identified: that warns.
    - `antithetic`: draw pairs $\hat\lambda \pm \sigma\varepsilon$. Default `True`: what the pair has in common then
      cancels from the gradient of the slopes, and with it nearly all of its noise.
    - `center`: $\lambda_0$; default `None`, the current hyperparameters, which are held constant. A number or a pytree
      fixes it.

    **Raises** `ValueError` for a scale that is negative or not finite.
    """

    scale: PyTree
    antithetic: bool = eqx.field(static=True, converter=named(flag, "antithetic"))
    center: PyTree | None

    def __init__(self, scale: Values = 0.05, antithetic: bool = True, center: Values | None = None):
        self.scale = jax.tree.map(named(nonnegative, "scale"), scale)
        self.antithetic = antithetic
        self.center = None if center is None else jax.tree.map(named(finite, "center"), center)
        _warn_of_zero(self.scale)

    def origin(self, hyperparameters: PyTree) -> Vector:
        if self.center is not None:
            return as_vector(self.center, hyperparameters, "center")
        return jax.lax.stop_gradient(as_vector(hyperparameters, hyperparameters))

    def unit(self, hyperparameters: PyTree) -> Vector:
        return _no_zeros(as_vector(self.scale, hyperparameters, "scale"))

    def draw(self, key, hyperparameters, spread, num):
        del spread
        center = as_vector(hyperparameters, hyperparameters)
        scale = as_vector(self.scale, hyperparameters, "scale")
        return center[None] + scale[None] * _noise(key, num, center, self.antithetic)


class AdaptiveAround(AbstractSampling):
    r"""A normal distribution around the current hyperparameters whose scale is learned: $N(\hat\lambda, \sigma^2)$ with
    $\sigma = \mathrm{softplus}(s)$, one per hyperparameter (Self-Tuning Networks).

    The outer player, $(\hat\lambda, s)$, then minimizes $\mathbb{E}_\varepsilon[L_V(w_\phi(\hat\lambda +
    \sigma\varepsilon))] - \tau H$, with the entropy $H = \sum_i \log(\sigma_i \sqrt{2\pi e})$. With $\tau = 0$ the
    scale shrinks until the slopes are not identified; with $\tau = 1$ that is variational inference.

    **Arguments:**

    - `scale`: the initial $\sigma$, one for all or a pytree. Default 0.5.
    - `entropy_weight`: $\tau$, default 1e-3.
    - `smallest`: $\sigma$ is clipped there; `tune` warns where that happened. Default 1e-3. The gradient of $s$ is that
      without the clipping, so that the entropy may raise it again.
    - `antithetic`: as in `Around`.

    **Raises** `ValueError` for a scale or a bound that is not positive, and for a negative weight.

    **Source:** M. MacKay et al., *Self-Tuning Networks*, ICLR 2019.
    """

    initial: PyTree
    entropy_weight: Float[Array, ""]
    smallest: Float[Array, ""]
    antithetic: bool = eqx.field(static=True, converter=named(flag, "antithetic"))

    def __init__(
        self,
        scale: Values = 0.5,
        entropy_weight: ArrayLike = 1e-3,
        smallest: ArrayLike = 1e-3,
        antithetic: bool = True,
    ):
        self.initial = jax.tree.map(named(positive, "scale"), scale)
        self.entropy_weight = nonnegative(entropy_weight, "entropy_weight")
        self.smallest = positive(smallest, "smallest")
        self.antithetic = antithetic

    @property
    def adaptive(self) -> bool:
        return True

    def origin(self, hyperparameters: PyTree) -> Vector:
        return jax.lax.stop_gradient(as_vector(hyperparameters, hyperparameters))

    def unit(self, hyperparameters: PyTree) -> Vector:
        return as_vector(self.initial, hyperparameters, "scale")

    def initial_spread(self, hyperparameters: PyTree) -> Vector:
        scale = self.unit(hyperparameters)
        return scale + jnp.log(-jnp.expm1(-scale))  # the inverse of softplus

    def deviation(self, spread: Vector) -> Vector:
        free = jax.nn.softplus(spread)
        return free + jax.lax.stop_gradient(jnp.maximum(self.smallest.astype(free.dtype) - free, 0))

    def collapsed(self, spread: Vector) -> Any:
        return jax.nn.softplus(spread) <= self.smallest.astype(spread.dtype)

    def entropy(self, spread: Vector | None) -> Float[Array, ""]:
        assert spread is not None
        free = jnp.log(jax.nn.softplus(spread))  # the derivative is that without the bound, the value that with it
        log = free + jax.lax.stop_gradient(jnp.log(self.deviation(spread)) - free)
        entropy = jnp.sum(log + 0.5 * math.log(2 * math.pi * math.e))
        return self.entropy_weight.astype(entropy.dtype) * entropy

    def draw(self, key, hyperparameters, spread, num):
        assert spread is not None
        center = as_vector(hyperparameters, hyperparameters)
        scale = self.deviation(spread).astype(center.dtype)
        return center[None] + scale[None] * _noise(key, num, center, self.antithetic)


class Normal(AbstractSampling):
    r"""A normal distribution over a whole range of hyperparameters, $N(\mu, \sigma^2)$. For global training.

    **Arguments:** `mean`, `scale`: $\mu$ and the standard deviation $\sigma > 0$, one number for all or a pytree.
    Defaults 0 and $\sqrt{1.5}$, as published (where 1.5 is the variance).

    **Raises** `ValueError` for values that are not finite, and a scale that is not positive.
    """

    mean: PyTree
    scale: PyTree

    def __init__(self, mean: Values = 0.0, scale: Values = 1.5**0.5):
        self.mean = jax.tree.map(named(finite, "mean"), mean)
        self.scale = jax.tree.map(named(positive, "scale"), scale)

    def origin(self, hyperparameters: PyTree) -> Vector:
        return as_vector(self.mean, hyperparameters, "mean")

    def unit(self, hyperparameters: PyTree) -> Vector:
        return as_vector(self.scale, hyperparameters, "scale")

    def draw(self, key, hyperparameters, spread, num):
        del spread
        center, unit = self.origin(hyperparameters), self.unit(hyperparameters)
        return center[None] + unit[None] * _noise(key, num, center, antithetic=False)


class Uniform(AbstractSampling):
    """A uniform distribution over a box of hyperparameters. For global training.

    **Arguments:** `low`, `high`: the ends of the box, one number for all or a pytree.

    **Raises** `ValueError` for values that are not finite, or a `low` that is not below `high`.
    """

    low: PyTree
    high: PyTree

    def __init__(self, low: Values, high: Values):
        self.low = jax.tree.map(named(finite, "low"), low)
        self.high = jax.tree.map(named(finite, "high"), high)
        ends = [np.asarray(x) for x in jax.tree.leaves((self.low, self.high)) if is_concrete(x)]
        same = jax.tree.structure(self.low) == jax.tree.structure(self.high)
        pairs = zip(ends[: len(ends) // 2], ends[len(ends) // 2 :]) if same else ()
        if any(not np.all(low < high) for low, high in pairs):
            raise ValueError(f"`low` must be below `high`, got {low} and {high}.")

    def origin(self, hyperparameters: PyTree) -> Vector:
        low, high = self._ends(hyperparameters)
        return (low + high) / 2

    def unit(self, hyperparameters: PyTree) -> Vector:
        low, high = self._ends(hyperparameters)
        return (high - low) / math.sqrt(12)

    def draw(self, key, hyperparameters, spread, num):
        del spread
        low, high = self._ends(hyperparameters)
        return low[None] + (high - low)[None] * jax.random.uniform(key, (num, low.size), low.dtype)

    def _ends(self, hyperparameters: PyTree) -> tuple[Vector, Vector]:
        return as_vector(self.low, hyperparameters, "low"), as_vector(self.high, hyperparameters, "high")


class Among(AbstractSampling):
    """The uniform distribution over finitely many given hyperparameters: a hypernetwork that is trained on no others.

    **Arguments:** `points`: hyperparameters stacked on a leading axis, at least two.

    **Raises** `ValueError` for fewer points, leaves with different numbers of them, or values that are not finite.
    """

    points: PyTree

    def __init__(self, points: PyTree):
        self.points = jax.tree.map(named(finite, "points"), points)
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(self.points)}
        if len(counts) != 1 or () in counts or counts == {(1,)}:
            raise ValueError(
                "`points` must stack at least two hyperparameters on the leading axis of every leaf, got leaves of the "
                f"shapes {[jnp.shape(leaf) for leaf in jax.tree.leaves(self.points)]}."
            )

    def origin(self, hyperparameters: PyTree) -> Vector:
        return self._all(hyperparameters).mean(axis=0)

    def unit(self, hyperparameters: PyTree) -> Vector:
        return _no_zeros(self._all(hyperparameters).std(axis=0))

    def draw(self, key, hyperparameters, spread, num):
        del spread
        points = self._all(hyperparameters)
        if num == len(points):
            return points  # all of them: no need for chance
        return points[jax.random.randint(key, (num,), 0, len(points), jnp.int32)]

    def _all(self, hyperparameters: PyTree) -> Float[Array, "points hyperparameters"]:
        return jax.vmap(lambda point: as_vector(point, hyperparameters, "points"))(self.points)


def as_vector(values: Values, like: PyTree, name: str = "values") -> Vector:
    """`values` for every hyperparameter, as one vector in the common dtype: one number for all, or a pytree."""
    leaves, structure = jax.tree.flatten(like)
    given = jax.tree.leaves(values)
    if jax.tree_util.all_leaves([values]) and jnp.ndim(values) == 0:
        given = [values] * len(leaves)
    elif jax.tree.structure(values) != structure:
        raise ValueError(
            f"`{name}` must be one number, or a pytree as the hyperparameters are, {structure}; got "
            f"{jax.tree.structure(values)}."
        )
    dtype = common_dtype(like)
    parts = []
    for value, leaf in zip(given, leaves):
        value = scalar(value, name)
        if value.shape not in ((), leaf.shape):
            raise ValueError(f"`{name}` has a leaf of shape {value.shape} for hyperparameters of shape {leaf.shape}.")
        parts.append(jnp.broadcast_to(value.astype(dtype), leaf.shape).reshape(-1))
    return jnp.concatenate(parts)


def from_vector(vector: Vector, like: PyTree) -> PyTree:
    """The inverse of `as_vector`: a vector as hyperparameters, in their shapes and dtypes."""
    leaves, structure = jax.tree.flatten(like)
    stops = np.cumsum([leaf.size for leaf in leaves])
    parts = [
        vector[stop - leaf.size : stop].reshape(leaf.shape).astype(leaf.dtype) for stop, leaf in zip(stops, leaves)
    ]
    return jax.tree.unflatten(structure, parts)


def _noise(key: PRNGKeyArray, num: int, like: Vector, antithetic: bool) -> Float[Array, "num hyperparameters"]:
    if not antithetic:
        return jax.random.normal(key, (num, like.size), like.dtype)
    half = jax.random.normal(key, ((num + 1) // 2, like.size), like.dtype)
    return jnp.concatenate([half, -half])[:num]


def _no_zeros(scale: Vector) -> Vector:
    return jnp.where(scale > 0, scale, 1)


def _warn_of_zero(scale: PyTree) -> None:
    if any(is_concrete(leaf) and not np.all(np.asarray(leaf) > 0) for leaf in jax.tree.leaves(scale)):
        warnings.warn(
            "With a sampling scale of 0 the hypernetwork is trained at one point only, so its slope, the response of "
            "the weights, is not identified. Pass a scale of 0.01 to 0.1 of the range of the hyperparameters.",
            stacklevel=3,
        )
