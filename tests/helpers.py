"""Small problems with closed forms, and the comparisons that the tests share."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import nestax as nx


class Quadratic(nx.AbstractDeterministicProblem):
    r"""$\tfrac12 \sum_i h_i x_i^2$: gradient descent multiplies $x_i$ by $1 - \eta h_i$."""

    curvature: Float[Array, "..."]
    start: float | Float[Array, "..."] = 1.0

    def init(self, key):
        return (jnp.broadcast_to(jnp.asarray(self.start, self.curvature.dtype), self.curvature.shape),)

    def losses(self, players, sample):
        return (0.5 * jnp.sum(self.curvature * players[0] ** 2),)


class NoisyQuadratic(nx.AbstractProblem):
    r"""$\tfrac12 \lVert x - \xi \rVert^2$ with $\xi$ normal: the sample matters, and the gradient is $x - \xi$."""

    scale: Float[Array, ""]
    dim: int = eqx.field(static=True, default=3)

    def init(self, key):
        return (jax.random.normal(key, (self.dim,), self.scale.dtype),)

    def samples(self, key, num):
        """The noise itself, the same in all dtypes: a generator inside of the losses would take long to compile."""
        return self.scale * jax.random.normal(key, (num, self.dim), jnp.float32).astype(self.scale.dtype)

    def losses(self, players, sample):
        return (0.5 * jnp.sum((players[0] - sample) ** 2),)


class Bilinear(nx.AbstractDeterministicProblem):
    """The zero-sum game `min_x max_y x y`: simultaneous gradient descent grows by `sqrt(1 + lr**2)`."""

    scale: Float[Array, ""]

    def init(self, key):
        x, y = jax.random.normal(key, (2,), self.scale.dtype)
        return (x, y)

    def losses(self, players, sample):
        x, y = players
        f = self.scale * x * y
        return (f, -f)


class Trees(nx.AbstractDeterministicProblem):
    """Two players with several leaves each (vector, matrix, scalar), coupled, not convex; polynomials compile fast."""

    coupling: Float[Array, ""]

    def init(self, key):
        keys = jax.random.split(key, 4)
        dtype = self.coupling.dtype
        first = {"w": jax.random.normal(keys[0], (2, 3), dtype), "b": jax.random.normal(keys[1], (3,), dtype)}
        second = [jax.random.normal(keys[2], (3,), dtype), jax.random.normal(keys[3], (), dtype)]
        return (first, second)

    def losses(self, players, sample):
        first, (v, s) = players
        mixed = first["b"] @ v
        mine = 0.5 * jnp.sum(first["w"] ** 2) + 0.25 * jnp.sum(first["b"] ** 4) + self.coupling * mixed
        theirs = 0.5 * jnp.sum(v**2) + 0.25 * (s**2 - 1) ** 2 - self.coupling * mixed * s
        return (mine, theirs)


class Wells(nx.AbstractDeterministicProblem):
    """Two players, each in a double well, who pull at each other differently: four modes; polynomials compile fast."""

    def init(self, key):
        x, y = jax.random.normal(key, (2,))
        return (x, y)

    def losses(self, players, sample):
        x, y = players
        return (0.25 * (x**2 - 1) ** 2 + 0.3 * x * y, 0.25 * (y**2 - 1) ** 2 - 0.1 * x * y**2)


class QuadraticSaddle(nx.AbstractMinimax, nx.AbstractDeterministicProblem):
    r"""$\tfrac12 \sum_i h_i (x_i^2 - y_i^2) + x^\top y + \tfrac1{10} \sum_i x_i^3 y_i$: not linear."""

    curvature: Float[Array, "..."]

    def init(self, key):
        shape, dtype = self.curvature.shape, self.curvature.dtype
        return jnp.ones(shape, dtype), jax.random.uniform(key, shape, dtype, 0.3, 0.7)

    def payoff(self, players, sample):
        x, y = players
        return jnp.sum(0.5 * self.curvature * (x**2 - y**2) + x * y + 0.1 * x**3 * y)


class Noisy(nx.AbstractProblem):
    """A deterministic problem at a point that the sample moves, in the first player's vectors of three numbers."""

    problem: nx.AbstractProblem
    scale: Float[Array, ""]

    @staticmethod
    def of(problem, scale):
        return (NoisyMinimax if isinstance(problem, nx.AbstractMinimax) else Noisy)(problem, scale)

    def init(self, key):
        return self.problem.init(key)

    def samples(self, key, num):
        return NoisyQuadratic(self.scale).samples(key, num)

    def losses(self, players, sample):
        return self.problem.losses(moved(players, sample), None)


class NoisyMinimax(nx.AbstractMinimax):
    """`Noisy` of a zero-sum game."""

    problem: nx.AbstractMinimax
    scale: Float[Array, ""]

    def init(self, key):
        return self.problem.init(key)

    def samples(self, key, num):
        return NoisyQuadratic(self.scale).samples(key, num)

    def payoff(self, players, sample):
        return self.problem.payoff(moved(players, sample), None)


def moved(players, sample):
    first, *others = players
    return (jax.tree.map(lambda x: x - sample if x.shape == (3,) else x, first), *others)


class Chart(nx.AbstractDeterministicProblem):
    """Any functions as a problem: `losses[i](*players)` is the loss of player i."""

    functions: tuple[Callable, ...] = eqx.field(static=True)
    start: tuple = ()

    def init(self, key):
        return self.start

    def losses(self, players, sample):
        return tuple(f(*players) for f in self.functions)


class CountTraces(nx.AbstractProblem):
    """A problem that counts how often its losses are traced. The count lives outside the pytree."""

    problem: nx.AbstractProblem
    counter: list = eqx.field(static=True)

    @staticmethod
    def of(problem):
        count = CountMinimaxTraces if isinstance(problem, nx.AbstractMinimax) else CountTraces
        return count(problem, Counter())

    def init(self, key):
        return self.problem.init(key)

    def samples(self, key, num):
        return self.problem.samples(key, num)

    def losses(self, players, sample):
        self.counter.append(None)
        return self.problem.losses(players, sample)


class CountMinimaxTraces(nx.AbstractMinimax):
    """`CountTraces` of a zero-sum game."""

    problem: nx.AbstractMinimax
    counter: list = eqx.field(static=True)

    def init(self, key):
        return self.problem.init(key)

    def samples(self, key, num):
        return self.problem.samples(key, num)

    def payoff(self, players, sample):
        self.counter.append(None)
        return self.problem.payoff(players, sample)


class Counter(list):
    """A list compared and hashed by identity, as a static field must be."""

    def __hash__(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)

    def __eq__(self, other):
        return self is other


class Map(nx.AbstractStep):
    """Iterates a function of the carry (and of `x`, if there is one)."""

    function: Callable = eqx.field(static=True)

    def __call__(self, carry, x):
        new = self.function(carry) if x is None else self.function(carry, x)
        return new, None


def begin(problem, optimizer, num_steps, key, players=None):
    """The carry and the samples of a run: what `rollout` needs."""
    init_key, state_key, sample_key = jax.random.split(key, 3)
    players = problem.init(init_key) if players is None else players
    drawn = problem.samples(sample_key, num_steps * optimizer.samples_per_step)
    xs = jax.tree.map(lambda x: x.reshape(num_steps, optimizer.samples_per_step, *x.shape[1:]), drawn)
    return (players, optimizer.init(problem, players, state_key)), xs


def unroll(problem, optimizer, num_steps, key, players=None, **kwargs):
    """`nx.rollout` of an optimizer on a problem, with the start and the samples of `begin`."""
    carry, xs = begin(problem, optimizer, num_steps, key, players)
    return nx.rollout(
        nx.OptimizerStep(problem, optimizer), carry, xs, num_steps=num_steps, **{"throw": False, **kwargs}
    )


def entry(tree, index):
    """`x[index]` of every leaf: one run of a batch, one step of a history."""
    return jax.tree.map(lambda x: x[index], tree)


def cast(tree, dtype):
    """Floating-point leaves in `dtype`, all others as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def with_any_weights(optimizer, scale, seed=0):
    """A learned optimizer with every weight drawn anew, of this size, so that none of them is at a special value."""
    leaves, structure = jax.tree.flatten(eqx.filter(optimizer, optimizer.meta_parameters()))
    rng = np.random.default_rng(seed)
    leaves = [jnp.asarray(scale * rng.standard_normal(x.shape)) for x in leaves]
    return eqx.combine(jax.tree.unflatten(structure, leaves), optimizer)


def raw(tree):
    """PRNG keys as their data, results as their numbers: leaves that NumPy can compare."""
    return jax.tree.map(
        lambda x: jax.random.key_data(x) if eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        eqx.filter(tree, eqx.is_array),
    )


def assert_close(got, expected, rtol=1e-6, atol=0.0):
    """Same structure, dtypes and (NaN included) nearly the same values."""
    got, expected = raw(got), raw(expected)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected)):
        name = jax.tree_util.keystr(path)
        assert a.dtype == b.dtype, name
        wide = np.complex128 if np.iscomplexobj(a) else np.float64
        np.testing.assert_allclose(np.asarray(a, wide), np.asarray(b, wide), rtol=rtol, atol=atol, err_msg=name)


def assert_identical(got, expected):
    """Bit for bit, NaN included."""
    got, expected = raw(got), raw(expected)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def shapes(tree):
    """Structure, shapes and dtypes of a pytree, comparable with `==`."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), jnp.result_type(x)) if eqx.is_array(x) else x for x in leaves]


def central_difference(function, x, step=1e-5):
    """The derivative of a scalar function of a scalar: central differences, error about `step**2` relative."""
    return (function(x + step) - function(x - step)) / (2 * step)
