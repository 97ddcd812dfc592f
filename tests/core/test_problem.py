"""Joint gradients and game Jacobian products against closed forms and dense Jacobians; every refusal."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import nestax as nx
from nestax._gradients import evaluate_losses
from nestax._problem import check_players
from nestax._tree import check_same_structure

from ..helpers import Bilinear, Chart, Quadratic, Trees

ONE = jnp.array(1.0)

QUADRATIC = Quadratic(jnp.array([0.5, 1.0, 3.0]))
BILINEAR = Bilinear(jnp.array(1.5))
CYCLE = Chart(  # three players; each loss depends on all of them
    (
        lambda x, y, z: x**2 * y + z,
        lambda x, y, z: y * z**2 - x * y,
        lambda x, y, z: jnp.sin(x * z) + y * z,
    )
)


def test_joint_gradient_of_one_player():
    x = jnp.array([1.0, -2.0, 0.5])
    losses, (gradient,) = nx.joint_gradient(QUADRATIC, (x,), None)
    np.testing.assert_allclose(losses, [0.5 * (0.5 + 4.0 + 0.75)], rtol=1e-15)
    np.testing.assert_allclose(gradient, [0.5, -2.0, 1.5], rtol=1e-15)


def test_joint_gradient_of_two_players_is_each_players_own():
    losses, (gx, gy) = nx.joint_gradient(BILINEAR, (jnp.array(2.0), jnp.array(-3.0)), None)
    np.testing.assert_allclose(losses, [-9.0, 9.0])
    np.testing.assert_allclose([gx, gy], [-4.5, -3.0])  # (s y, -s x)


def test_joint_gradient_of_three_players():
    x, y, z = 0.7, -1.1, 0.4
    losses, field = nx.joint_gradient(CYCLE, (x * ONE, y * ONE, z * ONE), None)
    np.testing.assert_allclose(losses, [x**2 * y + z, y * z**2 - x * y, np.sin(x * z) + y * z], rtol=1e-14)
    np.testing.assert_allclose(jnp.stack(field), [2 * x * y, z**2 - x, x * np.cos(x * z) + y], rtol=1e-14)


def test_joint_gradient_of_trees_against_finite_differences(key):
    problem = Trees(jnp.array(0.7))
    players = problem.init(key)
    _, field = nx.joint_gradient(problem, players, None)
    assert jax.tree.structure(field) == jax.tree.structure(players)
    for i, (player, gradient) in enumerate(zip(players, field)):
        flat, unravel = ravel_pytree(player)

        def loss(flat, i=i, unravel=unravel):
            return problem.losses((*players[:i], unravel(flat), *players[i + 1 :]), None)[i]

        h = 1e-5
        expected = [(loss(flat.at[j].add(h)) - loss(flat.at[j].add(-h))) / (2 * h) for j in range(flat.size)]
        np.testing.assert_allclose(ravel_pytree(gradient)[0], expected, rtol=1e-7, atol=1e-9)


def test_the_sample_reaches_the_losses():
    class Shifted(nx.AbstractProblem):
        def init(self, key):
            return (ONE,)

        def losses(self, players, sample):
            return (0.5 * (players[0] - sample) ** 2,)

    _, (gradient,) = nx.joint_gradient(Shifted(), (ONE,), jnp.array(3.0))
    np.testing.assert_allclose(gradient, -2.0)


@pytest.mark.parametrize("name", ["one", "two", "three", "trees"])
def test_game_jacobian_products_against_the_dense_jacobian(name, key):
    problem, players = {
        "one": lambda: (QUADRATIC, (jnp.array([1.0, -2.0, 0.5]),)),
        "two": lambda: (BILINEAR, (jnp.array(2.0), jnp.array(-3.0))),
        "three": lambda: (CYCLE, (0.7 * ONE, -1.1 * ONE, 0.4 * ONE)),
        "trees": lambda: (Trees(jnp.array(0.7)), Trees(jnp.array(0.7)).init(key)),
    }[name]()
    flat, unravel = ravel_pytree(players)
    jacobian = jax.jit(jax.jacfwd(lambda f: ravel_pytree(nx.joint_gradient(problem, unravel(f), None)[1])[0]))(flat)
    vector = jax.random.normal(key, flat.shape)
    forward = jax.jit(lambda v: nx.game_jvp(problem, players, None, v))(unravel(vector))
    backward = jax.jit(lambda v: nx.game_vjp(problem, players, None, v))(unravel(vector))
    assert jax.tree.structure(forward) == jax.tree.structure(backward) == jax.tree.structure(players)
    np.testing.assert_allclose(ravel_pytree(forward)[0], jacobian @ vector, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ravel_pytree(backward)[0], jacobian.T @ vector, rtol=1e-12, atol=1e-13)


def test_game_jacobian_products_of_the_bilinear_game_by_hand():
    players, v = (ONE, ONE), (jnp.array(2.0), jnp.array(5.0))
    # the field is (s y, -s x), so J = [[0, s], [-s, 0]] with s = 1.5
    np.testing.assert_allclose(jnp.stack(nx.game_jvp(BILINEAR, players, None, v)), [7.5, -3.0])
    np.testing.assert_allclose(jnp.stack(nx.game_vjp(BILINEAR, players, None, v)), [-7.5, 3.0])


def test_default_samples_are_distinct_keys_and_deterministic_problems_have_none(key):
    class Random(nx.AbstractProblem):
        def init(self, key):
            return (ONE,)

        def losses(self, players, sample):
            return (players[0],)

    drawn = Random().samples(key, 4)
    assert drawn.shape == (4,)
    assert len({tuple(row) for row in np.asarray(jax.random.key_data(drawn)).tolist()}) == 4
    assert QUADRATIC.samples(key, 4) is None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("players", "message"),
    [
        ([ONE], "must be a non-empty tuple.*got list"),
        ({"x": ONE}, "must be a non-empty tuple.*got dict"),
        (ONE, "must be a non-empty tuple"),
        ((), "must be a non-empty tuple"),
        (({},), "holds no arrays"),
        ((jnp.array([1, 2]),), r"players\[0\].*real floating-point array, got an array of dtype int64"),
        ((ONE, {"w": jnp.array(True)}), r"players\[1\]\['w'\].*dtype bool"),
        ((jnp.array(1j),), "got an array of dtype complex128"),
        ((1.0,), "got a float"),
        ((jax.random.key(0),), "got an array of dtype key"),
    ],
)
def test_players_that_cannot_be_optimized_are_refused(players, message):
    with pytest.raises(ValueError, match=message):
        check_players(players)


def test_good_players_pass_through():
    players = ({"w": ONE, "b": jnp.zeros(2, jnp.bfloat16)}, (jnp.zeros((2, 2), jnp.float32),))
    assert check_players(players) is players


class Loss(nx.AbstractDeterministicProblem):
    """Returns whatever it is told to, to be refused."""

    function: Callable

    def init(self, key):
        return (ONE,)

    def losses(self, players, sample):
        return self.function(players)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p: p[0] ** 2, "a tuple with one loss per player .1 here., got a "),
        (lambda p: [p[0] ** 2], "got a list"),
        (lambda p: (p[0], -p[0]), "got a tuple of 2"),
        (lambda p: (), "got a tuple of 0"),
        (lambda p: (p[0] * jnp.ones(3),), r"loss 0 has shape \(3,\).*Reduce it"),
        (lambda p: (jnp.array(1),), "dtype int64"),
        (lambda p: (p[0] * 1j,), "dtype complex128"),
    ],
)
def test_losses_of_the_wrong_kind_are_refused(function, message):
    problem = Loss(function)
    with pytest.raises(ValueError, match=message):
        evaluate_losses(problem, (ONE,), None)
    with pytest.raises(ValueError, match=message):
        nx.joint_gradient(problem, (ONE,), None)
    with pytest.raises(ValueError, match=message):
        nx.solve(problem, nx.optimizers.sgd(0.1), num_steps=3, key=jax.random.key(0))


def test_too_few_losses_for_two_players():
    with pytest.raises(ValueError, match=r"one loss per player .2 here., got a tuple of 1"):
        nx.joint_gradient(Loss(lambda p: (p[0] * p[1],)), (ONE, ONE), None)


@pytest.mark.parametrize("product", [nx.game_jvp, nx.game_vjp])
@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ((ONE,), "wrong pytree structure"),
        ((ONE, {"y": ONE}), "wrong pytree structure"),
        ((ONE, jnp.ones(2)), r"\[1\]` has shape \(2,\)"),
        ((ONE, jnp.array(1.0, jnp.float32)), "dtype float32.*expected shape.*dtype float64"),
    ],
)
def test_vectors_of_the_wrong_structure_are_refused(product, vector, message):
    with pytest.raises(ValueError, match=message):
        product(BILINEAR, (ONE, ONE), None, vector)


def test_check_same_structure_accepts_equals():
    check_same_structure({"a": ONE}, {"a": 2 * ONE}, "x")
