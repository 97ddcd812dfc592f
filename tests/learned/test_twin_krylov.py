"""TwinKrylov: finite termination, invariances, a stable state, and a meta-gradient through what directions teach."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nestax as nx
from nestax import measures, meta
from nestax.learned import TwinKrylov

from ..helpers import assert_close, cast, shapes, unroll


def norms(game, players):
    return np.asarray(jax.vmap(lambda p: measures.GradientNorm()(game, p, None))(players))


def path(game, optimizer, num_steps, key):
    players = game.init(key)
    batch = meta.Batch.of(game, (players, optimizer.init(game, players, key)), num_steps, key)
    return eqx.filter_jit(meta.TruncatedBackprop())(optimizer, batch, meta.RelativeLog(measures.SquaredGradientNorm()))


def steered(key, memory=12):
    """One whose networks do not answer zero."""
    optimizer = TwinKrylov((3,), memory=memory, key=key)
    draws = [0.3 * jax.random.normal(k, (3, 3)) for k in jax.random.split(key)]
    return eqx.tree_at(lambda o: [n.readout_weight for n in o.networks], optimizer, draws)


def test_a_linear_game_ends_after_as_many_steps_as_it_has_coordinates(key):
    """The joint gradient is linear in 7 coordinates: 7 independent moves tell all of it, whatever the networks say."""
    game = nx.problems.QuadraticGame.random(key, rows=3, columns=4, condition=20.0)
    for optimizer in (TwinKrylov((3,), memory=12, key=key), steered(key)):
        unrolls = path(game, optimizer, 12, key)[0].unrolls
        assert unrolls is not None
        sizes = norms(game, jax.tree.map(lambda x: x[0], unrolls.players))
        assert sizes[6] > 1e-6 * sizes[0]
        assert sizes[9] < 1e-8 * sizes[0]
        assert sizes.max() < 100 * sizes[0]


def test_it_stays_at_the_solution(key):
    """Changes that are rounding only, or that the memory explains, are not learned from: no breakdown afterwards."""
    for density in (1.0, 0.5):  # the sparse one is singular for some keys
        game = nx.problems.BilinearGame.random(key, density=density)
        out = unroll(game, TwinKrylov(memory=12, key=key), 300, key)
        assert out.result == nx.RESULTS.successful
        assert norms(game, jax.tree.map(lambda x: x[None], out.carry[0]))[0] < 1e-12


def test_moves_are_conjugate_and_explain_their_changes(key):
    """On a linear game every row of `moves` is mapped by the Jacobian to its row of `changes`, and these are
    orthonormal: the multisecant equations."""
    game = nx.problems.QuadraticGame.random(key, rows=3, columns=4, condition=20.0)
    state = unroll(game, steered(key), 6, key).carry[1]
    num = int(state.learned)
    assert num == 5  # six gradients, five differences
    moves, changes = state.moves[:num], state.changes[:num]
    np.testing.assert_allclose(moves @ game.jacobian().T, changes, atol=1e-9)
    np.testing.assert_allclose(changes @ changes.T, np.eye(num), atol=1e-12)


def test_orthonormal_coordinates_and_units_of_the_payoff_do_not_matter(key):
    game = nx.problems.QuadraticGame.random(key, rows=3, columns=4, condition=20.0)
    left, right = (jax.random.orthogonal(k, n) for k, n in zip(jax.random.split(key), (3, 4)))
    own, other = left.T @ game.own @ left, right.T @ game.other @ right
    turned = nx.problems.QuadraticGame(
        (own + own.T) / 2,
        left.T @ game.coupling @ right,
        (other + other.T) / 2,
        (left.T @ game.linear[0], right.T @ game.linear[1]),
    )
    players = game.init(key)
    out = unroll(game, steered(key), 6, key, players).carry[0]
    expected = unroll(turned, steered(key), 6, key, (left.T @ players[0], right.T @ players[1])).carry[0]
    assert_close(out, (left @ expected[0], right @ expected[1]), rtol=1e-7)

    scaled = jax.tree.map(lambda x: 1e3 * x, game)
    optimizer = eqx.tree_at(lambda o: o.first_step, steered(key), jnp.asarray(1e-4))  # the first move the same
    reference = eqx.tree_at(lambda o: o.first_step, steered(key), jnp.asarray(0.1))
    got = unroll(scaled, optimizer, 6, key, players).carry[0]
    assert_close(got, unroll(game, reference, 6, key, players).carry[0], rtol=1e-7)


def test_the_meta_gradient_is_finite_differences(key):
    """For networks that answer constants (the features are held constant, so they must not matter)."""
    game = nx.problems.BilinearGame.random(key, rows=2, columns=3, density=1.0)
    optimizer = TwinKrylov((2,), memory=3, key=key)

    def get(o):
        return o.networks[0].readout_bias

    optimizer = eqx.tree_at(get, optimizer, jnp.array([0.1, -0.2, 0.1]))
    gradient = get(path(game, optimizer, 4, key)[1])
    for i in range(3):
        values = []
        for step in (1e-5, -1e-5):
            moved = eqx.tree_at(get, optimizer, get(optimizer).at[i].add(step))
            values.append(float(path(game, moved, 4, key)[0].values[0]))
        expected = (values[0] - values[1]) / 2e-5
        assert abs(expected) > 1e-6
        np.testing.assert_allclose(gradient[i], expected, rtol=1e-5)


def test_structure_and_dtypes(key):
    game = nx.problems.BilinearGame(jnp.eye(3, 4, dtype=jnp.float32), 0.5)
    optimizer = cast(TwinKrylov((3,), memory=4, key=key), jnp.float32)
    players = game.init(key)
    state = optimizer.init(game, players, key)
    out = unroll(game, optimizer, 3, key)
    assert shapes(out.carry) == shapes((players, state))
    arrays = [x for x in jax.tree.leaves(out.carry) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in arrays} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(out.info.cost.gradients, 1)
