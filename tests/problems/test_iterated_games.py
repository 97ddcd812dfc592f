"""Iterated matrix games and problems made of problems: values that follow from the rules, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import problems

BIG = 60.0
STRATEGIES = {  # to cooperate at the start and after CC, CD, DC, DD, the own action first
    "defect": (0, 0, 0, 0, 0),
    "cooperate": (1, 1, 1, 1, 1),
    "tit for tat": (1, 1, 0, 1, 0),
    "grim": (1, 1, 0, 0, 0),
}


def pure(name):
    return BIG * (2.0 * jnp.array(STRATEGIES[name], float) - 1.0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("defect", "defect", (2, 2)),
        ("tit for tat", "tit for tat", (1, 1)),
        ("defect", "tit for tat", (0.96 * 2, 0.04 * 3 + 0.96 * 2)),
        ("defect", "cooperate", (0, 3)),
        ("tit for tat", "cooperate", (1, 1)),
        ("grim", "defect", (0.04 * 3 + 0.96 * 2, 0.96 * 2)),
    ],
)
def test_pairs_of_pure_strategies(first, second, expected):
    losses = problems.iterated_prisoners_dilemma().losses((pure(first), pure(second)), None)
    np.testing.assert_allclose(losses, expected, atol=1e-12)


def test_uniform_play_costs_the_mean_of_the_matrix():
    np.testing.assert_allclose(problems.iterated_prisoners_dilemma().losses((jnp.zeros(5), jnp.zeros(5)), None), 1.5)


def simulate(first, second, policies, discount, view, num_rounds=600):
    """Independent of the formula: the distribution over rounds, propagated round by round."""
    p, q = policies
    rows, columns = first.shape
    chance, losses = np.outer(p[0], q[0]), np.zeros(2)
    for t in range(num_rounds):
        losses += (1 - discount) * discount**t * np.array([np.sum(chance * first), np.sum(chance * second)])
        new = np.zeros_like(chance)
        for a in range(rows):
            for b in range(columns):
                other = 1 + (b * rows + a if view == "own" else a * columns + b)
                new += chance[a, b] * np.outer(p[1 + a * columns + b], q[other])
        chance = new
    return losses


@pytest.mark.parametrize("view", ["own", "shared"])
def test_any_matrix_game_against_a_simulation(view, key):
    """Two actions against three; both orders of the second player's states."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 2, 3))
    game = problems.IteratedMatrixGame(first, second, 0.9, view=view, init_scale=2.0)
    players = game.init(key)
    assert [p.shape for p in players] == [(7,), (14,)]
    policies = [np.asarray(p) for p in game.policies(players)]
    np.testing.assert_allclose(policies[1].sum(axis=1), 1)
    expected = simulate(first, second, policies, 0.9, view)
    np.testing.assert_allclose(game.losses(players, None), expected, rtol=1e-10)


def test_symmetry_holds_in_the_own_view_and_the_views_differ_by_a_swap(key):
    game = problems.iterated_prisoners_dilemma()
    a, b = game.init(key)
    losses, turned = game.losses((a, b), None), game.losses((b, a), None)
    np.testing.assert_allclose(losses, turned[::-1], rtol=1e-13)
    shared = problems.iterated_prisoners_dilemma(view="shared")
    np.testing.assert_allclose(shared.losses((a, b[jnp.array([0, 1, 3, 2, 4])]), None), losses, rtol=1e-13)
    assert not np.allclose(shared.losses((a, b), None), losses)


def test_the_small_dilemma_is_a_plane_of_the_large_one():
    small, large = problems.SmallPrisonersDilemma(low=0.2), problems.iterated_prisoners_dilemma()
    x, y = jnp.array(0.7), jnp.array(-1.1)
    low = jnp.log(0.2 / 0.8)
    strategies = (jnp.stack([x, x, low, x, low]), jnp.stack([y, y, low, y, low]))
    np.testing.assert_allclose(small.losses((x, y), None), large.losses(strategies, None), rtol=1e-12)


def test_values_of_the_small_dilemma():
    """Computed once with an independent program: both cooperate, both defect."""
    small = problems.SmallPrisonersDilemma()
    for logit, loss in ((8.0, 1.007), (-8.0, 1.990)):
        np.testing.assert_allclose(small.losses((jnp.array(logit), jnp.array(logit)), None), loss, atol=5e-4)


def test_matching_pennies_rotate_by_a_quarter():
    game = problems.MatchingPennies()
    jacobian = nx.dynamics.game_jacobian(game, game.solution()).dense()
    np.testing.assert_allclose(jacobian, [[0, 0.25], [-0.25, 0]], atol=1e-15)
    side = (jnp.array(BIG), jnp.array(BIG))
    np.testing.assert_allclose(game.losses(side, None), [1, -1])


def test_a_mixture_is_one(key):
    game = problems.mixed_dilemma(0.25)
    players = game.init(key)
    small, pennies = (np.array(g.losses(players, None)) for g in (game.first, game.second))
    np.testing.assert_allclose(game.losses(players, game.samples(key, 1)), 0.25 * small + 0.75 * pennies, rtol=1e-14)
    with pytest.raises(ValueError, match="has shape"):
        problems.MixedGame(problems.MatchingPennies(), problems.iterated_prisoners_dilemma(), 0.5).init(key)


def test_a_random_subspace(key):
    whole = problems.iterated_prisoners_dilemma()
    plane = problems.random_subspace(whole, key)
    x = (jnp.array([0.3]), jnp.array([-2.0]))
    embedded = plane.embed(x)
    for coordinate, own, offset, direction in zip(x, embedded, plane.offset, plane.directions):
        np.testing.assert_allclose(own, offset + coordinate * direction[0], rtol=1e-14)
        assert np.linalg.norm(direction) == pytest.approx(1)
        assert np.all(direction >= 0)
    np.testing.assert_allclose(plane.losses(x, None), whole.losses(embedded, None))
    assert [p.shape for p in plane.init(key)] == [(1,), (1,)]


def test_the_saddle_of_the_double_well():
    well = problems.DoubleWell()
    _, field = nx.joint_gradient(well, (well.saddle,), None)
    np.testing.assert_allclose(field[0], 0)
    np.testing.assert_allclose(nx.dynamics.game_jacobian(well, (well.saddle,)).dense(), np.diag([-1.0, 1.0]))
    np.testing.assert_allclose(well.losses((jnp.array([-1.0, 0.0]),), None), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problems.IteratedMatrixGame(np.ones((2, 2)), np.ones((2, 3))), "matrices of one shape"),
        (lambda: problems.IteratedMatrixGame(np.ones((1, 2)), np.ones((1, 2))), "at least two of each"),
        (lambda: problems.IteratedMatrixGame(problems.DILEMMA[0], problems.DILEMMA[1], 1.0), "`discount` must be"),
        (
            lambda: problems.IteratedMatrixGame(problems.DILEMMA[0], problems.DILEMMA[1], view="mine"),  # pyright: ignore[reportArgumentType]
            "`view` must be one of 'own', 'shared'",
        ),
        (lambda: problems.SmallPrisonersDilemma(low=1.5), "`low` must be between 0 and 1"),
        (lambda: problems.mixed_dilemma(-0.1), "`weight` must be between 0 and 1"),
        (
            lambda: problems.Subspace(problems.MatchingPennies(), (jnp.ones(2),), (jnp.ones((1, 3)),)),
            "`directions` must be",
        ),
    ],
)
def test_refuses(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dtype_follows_the_players():
    game = problems.iterated_prisoners_dilemma()
    losses = game.losses((jnp.zeros(5, jnp.float32), jnp.zeros(5, jnp.float32)), None)
    assert [x.dtype for x in losses] == [jnp.float32] * 2
    assert jax.tree.leaves(game.init(jax.random.key(0)))[0].dtype == jnp.float64
