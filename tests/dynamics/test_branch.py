"""The branching tree search: what each component does, known solutions, and trees as values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import dynamics as nd
from nestax._storage import save_arrays

from ..helpers import Chart, NoisyQuadratic, Wells

WELL = nx.problems.DoubleWell()
DESCENT = nx.optimizers.sgd(0.1)
SADDLE = nd.GivenStart((WELL.saddle,))


def game_of(problem, optimizer, key=None):
    key = jax.random.key(0) if key is None else key
    return nd.Game(problem, optimizer, problem.init(key), key)


@pytest.fixture(scope="module")
def well_tree():
    return nd.branch(WELL, DESCENT, nd.ridge_rider((WELL.saddle,)), key=jax.random.key(0))


def test_ridge_rider_finds_both_wells(well_tree):
    """From the saddle the only negative direction is x, of curvature -1; the ride and descent end at +1 and -1."""
    assert well_tree.num_branches == 2
    np.testing.assert_allclose(well_tree.values[1:], -1)
    np.testing.assert_allclose(sorted(well_tree.ends[1:, 0]), [-1, 1], atol=1e-3)
    np.testing.assert_allclose(well_tree.ends[1:, 1], 0, atol=1e-12)
    assert len(well_tree.solutions) == 1  # by their losses the wells are one solution,
    assert well_tree.copies == (2,)
    method = nd.Branching(SADDLE, nd.NegativeCurvature(), nd.Jump(0.5), 100, metric=nd.ParameterDistance())
    by_place = nd.branch(WELL, DESCENT, method, key=jax.random.key(0))
    assert len(by_place.solutions) == 2  # and by their coordinates two


def test_a_ride_stops_where_the_loss_rises_or_the_curvature_turns(key):
    """The curvature 3 x^2 - 1 along the ridge vanishes at 1 / sqrt(3); a step of 0.05 ends at the first point
    beyond."""
    ends, cost = nd.Ride(0.05, 200)(game_of(WELL, DESCENT), np.zeros((1, 2)), np.array([[1.0, 0.0]]))
    assert 3**-0.5 <= ends[0, 0] < 3**-0.5 + 0.05 + 1e-9
    assert cost[0] == 2 * 2 * (round(ends[0, 0] / 0.05) + 1)  # dense: two products of two gradients, and one step more
    power, _ = nd.Ride(0.05, 200, nd.PowerOnStep(0.3))(game_of(WELL, DESCENT), np.zeros((1, 2)), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(power, ends, atol=1e-12)


def test_until_turn():
    """Along x from -0.2 the gradient x^3 - x changes sign at 0 (from positive to negative)."""
    move = nd.UntilTurn(0.05, 100)
    ends, cost = move(game_of(WELL, DESCENT), np.array([[-0.2, 0.0]]), np.array([[1.0, 0.0]]))
    assert -1e-9 <= ends[0, 0] <= 0.05 + 1e-9
    assert cost[0] > 4
    stuck, _ = nd.UntilTurn(0.05, 3)(game_of(WELL, DESCENT), np.array([[-0.9, 0.0]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(stuck[0, 0], -0.75)


def rotation(scale):
    """A game of two scalars whose step of rate 1 has the eigenvalues 1 - a +- b i."""
    a, b = scale
    return Chart(
        (lambda x, y: a * x**2 / 2 + b * x * y, lambda x, y: a * y**2 / 2 - b * x * y), (jnp.zeros(()), jnp.zeros(()))
    )


def test_complex_pairs_give_two_directions_and_conjugates_none():
    game = game_of(rotation((0.0, 1.0)), nx.optimizers.sgd(1.0))
    found = nd.EigenDirections()(game, np.zeros(2))
    assert found.vectors.shape == (2, 2)
    np.testing.assert_allclose(found.values, [1 + 1j] * 2, atol=1e-12)
    np.testing.assert_allclose(np.abs(found.vectors @ found.vectors.T), np.eye(2), atol=1e-12)
    assert found.num_gradients == 4
    assert len(nd.EigenDirections()(game_of(rotation((0.5, 0.5)), nx.optimizers.sgd(1.0)), np.zeros(2)).vectors) == 0


def test_directions_of_a_game():
    """Against NumPy on the dense Jacobian; the players' part alone where the optimizer has a state."""
    problem = Wells()
    game = game_of(problem, nx.optimizers.sgd(1.5))
    flat = np.array([0.1, 0.9])
    matrix = np.asarray(game.step_jacobian(flat).dense())
    singular = nd.SingularDirections()(game, flat)
    values = np.linalg.svd(matrix)[1]
    assert list(values > 1) == [True, True]
    np.testing.assert_allclose(singular.values.real, values, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(matrix @ singular.vectors.T, axis=0), values, rtol=1e-9)
    assert len(nd.SingularDirections(threshold=float(values[1]) + 0.01)(game, flat).values) == 1
    few = nd.SingularDirections(num=1)(game, flat)
    np.testing.assert_allclose(few.values.real, values[:1], rtol=1e-3)
    eigen = nd.EigenDirections()(game, flat)
    assert len(eigen.values) == np.sum(np.abs(np.linalg.eigvals(matrix)) > 1)
    with_state = nd.EigenDirections()(game_of(problem, nx.optimizers.momentum(1.5)), flat)
    assert with_state.vectors.shape[1] == 2
    np.testing.assert_allclose(np.linalg.norm(with_state.vectors, axis=1), 1)
    assert nd.RandomDirections(3)(game, flat).vectors.shape == (3, 2)
    assert nd.AxisDirections()(game, flat).vectors.shape == (2, 2)


def test_the_small_dilemma_has_two_modes():
    """From the saddle between them (found by minimizing the gradient) one step along the one repelling direction."""
    problem = nx.problems.SmallPrisonersDilemma()
    start = nd.SaddleStart(600, nx.optimizers.adam(0.02), nd.GivenStart((jnp.array(0.5), jnp.array(0.5))))
    method = nd.Branching(start, nd.EigenDirections(), nd.Jump(1.0), 1_000)
    tree = nd.branch(problem, nx.optimizers.sgd(1.0), method, key=jax.random.key(0))
    assert tree.facts["gradient_norm"] < 1e-3
    np.testing.assert_allclose(tree.losses[list(tree.solutions)].mean(axis=1), [1.0, 2.0], atol=0.05)


@pytest.fixture(scope="module")
def wells():
    """A small search in a game of four modes, to depth 2, that branches along the axes."""
    problem, optimizer = Wells(), nx.optimizers.sgd(0.2)
    method = nd.Branching(nd.RankedStart(20, 5), nd.AxisDirections(), nd.Jump(1.0), 20, continuation=nd.UntilDepth(2))

    def search(**kwargs):
        return nd.branch(problem, optimizer, method, key=jax.random.key(1), batch_size=3, **kwargs)

    return problem, search, search()


def test_an_exhausted_budget_returns_the_tree_so_far(wells):
    _, search, whole = wells
    part = search(max_branches=6)
    assert part.exhausted
    assert np.sum(part.states[1:] != 0) == 6
    assert "the budget is exhausted" in str(part)
    by_cost = search(max_gradients=part.num_gradients - 1)
    assert by_cost.exhausted
    assert np.sum(by_cost.states[1:] != 0) >= 6
    assert whole.depths.max() == 2


def test_a_tree_goes_on_from_a_file(wells, tmp_path):
    problem, search, whole = wells
    path = tmp_path / "tree.safetensors"
    search(max_branches=6).save(path)
    loaded = nd.Tree.load(path, problem.init(jax.random.key(0)))
    resumed = search(tree=loaded)
    for name in ("parents", "signs", "states", "values", "ends", "losses"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name), err_msg=name)
    assert resumed.solutions == whole.solutions
    assert resumed.num_gradients == whole.num_gradients
    assert str(resumed) == str(whole)


def test_files_that_are_no_trees(wells, tmp_path):
    problem, _, whole = wells
    path = tmp_path / "tree.safetensors"
    whole.save(path)
    with pytest.raises(ValueError, match="the tree has 2 coordinates, the players have 3"):
        nd.Tree.load(path, (jnp.ones(3),))
    save_arrays(path, {}, {"kind": "optimizer"})
    with pytest.raises(ValueError, match="expected 'branching-tree'"):
        nd.Tree.load(path, problem.init(jax.random.key(0)))


def test_the_cost_is_counted(wells):
    """Ranking: draws x steps x (1 + 2); every branch its steps; the axes cost nothing."""
    _, search, whole = wells
    assert search(max_branches=3).num_gradients == 20 * 5 * 3 + 3 * 20
    assert whole.num_gradients == 20 * 5 * 3 + 20 * 20
    assert whole.num_branches == 4 + 4 * 4


def test_printed_and_drawn(well_tree, wells, tmp_path):
    lines = str(well_tree).splitlines()
    assert lines[0].startswith("start: losses 0.250")
    assert lines[1] == "├─ + (-1) losses 0.000 [1]"
    assert lines[2] == "└─ − (-1) losses 0.000"
    assert lines[-1].startswith("2 branches, 1 distinct solution, ")
    for tree in (well_tree, wells[2]):
        tree.plot(tmp_path / "tree.png", title="tree")
        assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")


def test_orders(wells):
    """Open nodes of a tree with chosen eigenvalues."""
    tree = dataclasses.replace(wells[2], values=np.array([np.nan, 1 + 2j, -3.0, 0.5], complex))
    for choice, expected in (
        (nd.FirstIn(), [1, 2, 3]),
        (nd.LastIn(), [3, 2, 1]),
        (nd.LargestValue(), [2, 1, 3]),
        (nd.MostNegative(), [2, 3, 1]),
    ):
        assert choice(tree, [2, 3, 1]) == expected


def test_starts(key):
    problem, optimizer = Wells(), nx.optimizers.sgd(0.2)
    game = game_of(problem, optimizer, key)
    random = nd.RandomStart()(game, key)
    np.testing.assert_array_equal(random.flat, game.flat(problem.init(key)))
    ascent = nd.AscentStart(20)(game, key)
    assert ascent.facts["exponent"] > ascent.facts["exponent_before"]
    assert ascent.num_gradients > 0
    none = nd.AscentStart(0)(game, key)
    assert none.num_gradients == 0
    ranked = nd.RankedStart(8, 4)(game, key)
    assert ranked.num_gradients == 8 * 4 * 3
    keys = jax.random.split(key, 8)
    exponents = [
        nd.lyapunov_exponents(problem, optimizer, problem.init(k), num_steps=4, definition=nd.Benettin()).exponents[0]
        for k in keys
    ]
    np.testing.assert_allclose(ranked.facts["exponent"], max(exponents), rtol=1e-9)
    np.testing.assert_allclose(ranked.flat, game.flat(problem.init(keys[int(np.argmax(exponents))])))


def test_verifications_rankings_metrics():
    losses = np.array([1.0, 2.0])
    assert nd.AnyEnd()(losses, 9.0)
    assert not nd.AnyEnd()(np.array([1.0, np.nan]), 9.0)
    assert nd.SmallResidual(0.1)(losses, 0.05)
    assert not nd.SmallResidual(0.1)(losses, 0.2)
    assert nd.Accept(lambda x: x.max() < 3)(losses, 0.0)
    assert nd.TotalLoss()(losses, 0.0) == 3
    assert nd.PlayerLoss(1)(losses, 0.0) == 2
    behaviour = nd.Behaviour(function=lambda players: 2 * players[0])
    np.testing.assert_array_equal(behaviour.features((jnp.array([1.0, 2.0]),), losses, losses), [2, 4])
    assert nd.UntilDepth(2)(1, True)
    assert not nd.UntilDepth(2)(2, True)
    assert not nd.UntilDepth(2, from_solutions=False)(1, True)


def test_several_first_moves(key):
    """Jumps of 0.5 and 20 along x in both senses: two branches find the wells, two overflow."""
    method = nd.Branching(SADDLE, nd.NegativeCurvature(), (nd.Jump(0.5), nd.Jump(20.0)), 100)
    tree = nd.branch(WELL, DESCENT, method, key=key)
    assert tree.moves[1:].tolist() == [0, 1, 0, 1]
    assert tree.signs[1:].tolist() == [1, 1, -1, -1]
    np.testing.assert_allclose(tree.ends[[1, 3], 0], [1, -1], atol=1e-3)
    assert tree.states[1:].tolist() == [1, 3, 1, 3]


def test_diverged_branches_are_no_solutions(key):
    """Beyond the wells gradient descent with a step of 0.1 overflows from x = 20."""
    method = nd.Branching(SADDLE, nd.NegativeCurvature(), nd.Jump(20.0), 50)
    tree = nd.branch(WELL, DESCENT, method, key=key)
    assert tree.solutions == ()
    assert np.all(tree.states[1:] == 3)
    assert "diverged" in str(tree)


def test_noise_is_fixed_by_the_key(key):
    problem = NoisyQuadratic(jnp.array(0.3))
    method = nd.Branching(nd.RandomStart(), nd.AxisDirections(), num_steps=5)
    first, again = (nd.branch(problem, DESCENT, method, key=key) for _ in range(2))
    np.testing.assert_array_equal(first.ends, again.ends)


@pytest.mark.usefixtures("unchecked")
def test_refuses(key):
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        nd.branch(WELL, DESCENT, key=key, batch_size=0)
    with pytest.raises(ValueError, match="`max_branches` must be an integer of at least 1"):
        nd.branch(WELL, DESCENT, key=key, max_branches=0)
    with pytest.raises(ValueError, match="`depth` must be an integer of at least 1"):
        nd.UntilDepth(0)
    with pytest.raises(ValueError, match="`num_draws` must be an integer of at least 1"):
        nd.RankedStart(0)
    with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 0"):
        nd.Branching(num_steps=-1)
    game = game_of(nx.problems.MatchingPennies(), DESCENT)
    with pytest.raises(ValueError, match="a single loss, but the game has 2 players"):
        nd.Ride()(game, np.zeros((1, 2)), np.array([[1.0, 0.0]]))
