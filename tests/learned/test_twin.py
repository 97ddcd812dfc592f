"""TwinLSTM: its step against NumPy, sharing modes, released departures, pairing of players, files."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax.learned import ReleasedRule, TwinLSTM

from ..helpers import Bilinear, Quadratic, assert_close, cast, entry, shapes, unroll

SHARING = ("two-lstm-two-hidden", "two-lstm-share-hidden", "share-lstm-two-hidden", "share-lstm-share-hidden")


def game(rows=3, columns=3, dtype=jnp.float64):
    matrix = jnp.linspace(-1.0, 1.5, rows * columns, dtype=dtype).reshape(rows, columns)
    return nx.problems.BilinearGame(matrix, 0.5)


@eqx.filter_jit  # one program instead of one per operation
def one_step(optimizer, problem, players, state, samples):
    return optimizer.step(problem, players, state, samples)


@eqx.filter_jit
def begin(optimizer, problem, players, key):
    return optimizer.init(problem, players, key)


def departing(**departures):
    """The paper's rule with some of the departures of the released code; runs of 10 steps."""
    literal = {"state_rescale": 1.0, "initial_noise": 0.0, "warmup_fraction": 0.0, "detach_iterates": False}
    return ReleasedRule(horizon=10, **(literal | departures))


class TreeGame(nx.AbstractMinimax, nx.AbstractDeterministicProblem):
    """Players with two leaves each, and one leaf of another size."""

    coupling: jax.Array

    def init(self, key):
        return ({"u": jnp.ones(2), "v": jnp.ones(3)}, {"u": jnp.ones(2), "v": jnp.ones(())})

    def payoff(self, players, sample):
        x, y = players
        return self.coupling * jnp.sum(x["u"] * y["u"]) + y["v"] * jnp.sum(x["v"])


# The formulas once more, in NumPy, for one instance and one coordinate at a time.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(network, x, state):
    """PyTorch's equations with explicit gates; the constant 1 of the cell is part of the forget gate."""
    new = []
    for cell, (h, c) in zip(network.cells, state):
        size = cell.hidden_size
        z = np.asarray(cell.weight) @ np.concatenate([x, h]) + np.asarray(cell.bias)
        i, j, f, o = (z[k * size : (k + 1) * size] for k in range(4))
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        x = sigmoid(o) * np.tanh(c)
        new.append((x, c))
    return np.asarray(network.readout_weight) @ x + np.asarray(network.readout_bias), new


def sign_like(u, v):
    return 0.0 if min(abs(u), abs(v)) <= 1e-12 else u * v / (abs(u * v) + 1e-30)


def secant_features(own, other, past):
    own_past, other_past, moved = past
    r = np.hypot(own, other) + 1e-20
    d_own, d_other = own - own_past, other - other_past
    slope = np.log((abs(d_other) + 1e-12) / (abs(moved) + 1e-12))
    return np.array(
        [
            own / r,
            other / r,
            np.clip(np.log(r) / 5, -4, 1),
            np.arcsinh(d_own / r),
            np.arcsinh(d_other / r),
            sign_like(d_own, moved),
            sign_like(d_other, moved),
            np.clip(slope / 5, -2, 2),
        ]
    )


def numpy_run(optimizer, matrix, x, y, num_steps):
    """`num_steps` of recipe D (or of the raw rule) on x^T A y, with plain loops over players and coordinates."""
    n, secant = len(x), isinstance(optimizer.rule, nx.learned.SecantRule)
    zeros = [[(np.zeros(c.hidden_size), np.zeros(c.hidden_size)) for c in optimizer.networks[0].cells]] * n
    hidden, memory = [list(zeros), list(zeros)], [[(0.0, 0.0, 0.0)] * n, [(0.0, 0.0, 0.0)] * n]
    players = [np.array(x), np.array(y)]
    for _ in range(num_steps):
        for p in (0, 1):
            gradients = matrix @ players[1], matrix.T @ players[0]
            own, other = gradients[p], gradients[1 - p]
            moves = np.zeros(n)
            for i in range(n):
                features = secant_features(own[i], other[i], memory[p][i]) if secant else np.array([own[i], other[i]])
                o, hidden[p][i] = lstm(optimizer.networks[p], features, hidden[p][i])
                d = np.exp(3 * o[2]) * (o[0] * own[i] + o[1] * other[i]) if secant else o[0]
                d = float(optimizer.output_scale) * d
                moves[i] = d if optimizer.max_step is None else optimizer.max_step * np.tanh(d / optimizer.max_step)
                memory[p][i] = (own[i], other[i], moves[i])
            players[p] = players[p] + moves
    return players


@pytest.mark.parametrize("arguments", [{}, {"rule": "gradients", "output_scale": 0.3, "max_step": None}])
def test_steps_are_the_formulas(arguments, key):
    optimizer, problem = TwinLSTM((4, 3), **arguments, key=key), game()
    players = problem.init(jax.random.fold_in(key, 1))
    out = unroll(problem, optimizer, 4, key, players)
    x, y = numpy_run(optimizer, np.asarray(problem.matrix), *players, 4)
    np.testing.assert_allclose(out.carry[0][0], x, rtol=1e-12)
    np.testing.assert_allclose(out.carry[0][1], y, rtol=1e-12)
    assert float(jnp.abs(out.carry[0][0] - players[0]).max()) > 1e-3
    np.testing.assert_array_equal(out.info.cost.gradients, 2)
    np.testing.assert_allclose(out.info.losses[:, 0], -out.info.losses[:, 1])


def test_weights_are_drawn_as_in_pytorch(key):
    """U(-1/sqrt(H), 1/sqrt(H)) for weights; the sum of two such for biases, around -1 for the added forget bias."""
    network = nx.learned.TwinNetwork(2, (50, 50), 1, key=key)
    bound = 50**-0.5
    for cell in network.cells:
        assert 0.99 * bound < float(jnp.abs(cell.weight).max()) <= bound
        np.testing.assert_allclose(cell.weight.std(), bound / np.sqrt(3), rtol=0.03)
        bias = cell.bias.reshape(4, 50).at[2].add(1.0)
        assert bound < float(jnp.abs(bias).max()) <= 2 * bound
        np.testing.assert_allclose(bias.std(), bound * np.sqrt(2 / 3), rtol=0.15)
    assert float(jnp.abs(network.readout_weight).max()) <= bound
    count = sum(x.size for x in jax.tree.leaves(network))
    assert count == 31_251 - 2 * 4 * 50  # published, with two biases per layer: one of them is left out


def test_sharing_modes_share_what_they_say(key):
    problem = game()
    sizes = {}
    for sharing in SHARING:
        optimizer = TwinLSTM((4, 3), sharing=sharing, key=key)
        state = begin(optimizer, problem, problem.init(key), key)
        sizes[sharing] = (len(optimizer.networks), len(state.hidden))
    assert list(sizes.values()) == [(2, 2), (2, 1), (1, 2), (1, 1)]

    # With one network and one state the second player continues where the first one stopped: two calls in a row.
    optimizer = TwinLSTM((4, 3), "gradients", "share-lstm-share-hidden", max_step=None, key=key)
    players = problem.init(key)
    after, state, _ = one_step(optimizer, problem, players, begin(optimizer, problem, players, key), None)
    matrix, network = np.asarray(problem.matrix), optimizer.networks[0]
    gradients = matrix @ np.asarray(players[1]), matrix.T @ np.asarray(players[0])
    seen = [gradients, (matrix.T @ np.asarray(after[0]), matrix @ np.asarray(players[1]))]
    hidden = [(np.zeros(4), np.zeros(4)), (np.zeros(3), np.zeros(3))]
    for p, (own, other) in enumerate(seen):
        out, hidden = lstm(network, np.array([own[1], other[1]]), hidden)
        np.testing.assert_allclose(after[p][1] - players[p][1], 0.1 * out[0], rtol=1e-10)
    np.testing.assert_allclose(state.hidden[0][0][0][1], hidden[0][0], rtol=1e-10)


def test_two_hidden_states_stay_apart(key):
    """With one network and two states the second player does not start from the state that the first one left."""
    problem = game()
    players = problem.init(key)
    own = TwinLSTM((3,), "gradients", "share-lstm-two-hidden", max_step=None, key=key)
    shared = TwinLSTM((3,), "gradients", "share-lstm-share-hidden", max_step=None, key=key)
    after_own, after_shared = (
        one_step(o, problem, players, begin(o, problem, players, key), None)[0] for o in (own, shared)
    )
    assert_close(after_own[0], after_shared[0])  # the first move is the same
    assert not np.allclose(after_own[1], after_shared[1], rtol=1e-3)


def test_rescaling_by_zero_takes_the_memory_away(key):
    """With `state_rescale=0` every move is a function of the two gradients alone; with 1 it is not."""
    problem = game()
    players = problem.init(key)
    for rescale, same in ((0.0, True), (1.0, False)):
        optimizer = TwinLSTM((4,), departing(state_rescale=rescale), max_step=None, key=key)
        first = begin(optimizer, problem, players, key)
        _, later, _ = one_step(optimizer, problem, players, first, None)
        moves = [one_step(optimizer, problem, players, s, None)[0][0] for s in (first, later)]
        assert np.allclose(*moves, rtol=1e-12) == same


def test_sign_warm_up_moves_by_the_schedule(key):
    """Release: half-steps k < 0.2 N move by sign(output) s_k with s_k linear from 1e-4 below 1e-1."""
    problem = nx.problems.Seesaw(1.0, 1.0)
    optimizer = TwinLSTM((4,), departing(warmup_fraction=0.2), max_step=None, key=key)
    players = (jnp.array(0.1), jnp.array(0.2))
    out = unroll(problem, optimizer, 3, key, players)
    state, sizes = begin(optimizer, problem, players, key), []
    for _ in range(3):
        moved, state, _ = one_step(optimizer, problem, players, state, None)
        sizes += [float(abs(moved[0] - players[0])), float(abs(moved[1] - players[1]))]
        players = moved
    # N = 20 half-steps, int(0.2 N) = 4 entries 1e-4 + (0.1 - 1e-4) (k - 1) / 4, used for k = 1, 2, 3
    np.testing.assert_allclose(sizes[:3], [1e-4, 1e-4 + 0.0999 / 4, 1e-4 + 0.0999 / 2], rtol=1e-9)
    assert min(abs(s - 0.1) for s in sizes[3:]) > 1e-3
    assert_close(out.carry[0], players, rtol=1e-12)


def test_detached_iterates_leave_each_move_its_own_change(key):
    """d x_2 / d weights is that of the second move alone: the first iterate is a constant."""
    problem = game()
    players = problem.init(key)

    def second_iterate(scale, detach):
        optimizer = TwinLSTM((4,), departing(detach_iterates=detach), output_scale=scale, max_step=None, key=key)
        state = begin(optimizer, problem, players, key)
        middle, state, _ = one_step(optimizer, problem, players, state, None)
        last, _, _ = one_step(optimizer, problem, middle, state, None)
        return last[0], middle[0]

    # outputs do not depend on the scale within a step, as gradients are constants: x_{t+1} = x_t + scale * o_t
    (last, middle), (slope, first_slope) = jax.jvp(lambda s: second_iterate(s, True), (0.3,), (1.0,))
    np.testing.assert_allclose(slope, (last - middle) / 0.3, rtol=1e-9)
    (last, middle), (slope, _) = jax.jvp(lambda s: second_iterate(s, False), (0.3,), (1.0,))
    np.testing.assert_allclose(slope, (last - players[0]) / 0.3, rtol=1e-9)
    np.testing.assert_allclose(first_slope, (middle - players[0]) / 0.3, rtol=1e-9)


def test_the_initial_state_has_the_noise(key):
    state = TwinLSTM((50, 50), departing(initial_noise=0.01), key=key).init(game(), game().init(key), key)
    values = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.hidden)])
    np.testing.assert_allclose(values.std(), 0.01, rtol=0.05)


def test_players_of_different_dimension_see_the_root_mean_square(key):
    problem = game(2, 3)
    optimizer = TwinLSTM((4,), "gradients", max_step=None, key=key)
    players = problem.init(key)
    after, _, _ = one_step(optimizer, problem, players, begin(optimizer, problem, players, key), None)
    own, other = problem.matrix @ players[1], problem.matrix.T @ players[0]
    seen = np.array([own[1], np.sqrt(np.mean(np.asarray(other) ** 2))])
    out, _ = lstm(optimizer.networks[0], seen, [(np.zeros(4), np.zeros(4))])
    np.testing.assert_allclose(after[0][1] - players[0][1], 0.1 * out[0], rtol=1e-10)


def test_pytrees_are_paired_leaf_by_leaf(key):
    """A game on pytrees is, for its leaves of equal size, the game on those leaves alone."""
    problem, optimizer = TreeGame(jnp.array(0.7)), TwinLSTM((3,), key=key)
    players = problem.init(key)
    after, _, _ = one_step(optimizer, problem, players, begin(optimizer, problem, players, key), None)
    alone = nx.problems.BilinearGame(0.7 * jnp.eye(2))
    start = (players[0]["u"], players[1]["u"])
    expected, _, _ = one_step(optimizer, alone, start, begin(optimizer, alone, start, key), None)
    assert_close((after[0]["u"], after[1]["u"]), expected, rtol=1e-12)


def test_structure_dtypes_and_batches(key):
    """What every optimizer promises: a stable state, float32 stays float32, a batch is a loop, one trace."""
    optimizer = TwinLSTM((4, 3), key=key)
    narrow = cast(optimizer, jnp.float32)
    problem = game(dtype=jnp.float32)
    out = unroll(problem, narrow, 3, key)
    state = narrow.init(problem, out.carry[0], key)
    assert shapes(out.carry[1]) == shapes(state)
    assert {x.dtype for x in jax.tree.leaves((out.carry[0], state.hidden, state.memory))} == {jnp.dtype("float32")}
    wide = unroll(game(), optimizer, 3, key, cast(problem.init(jax.random.split(key, 3)[0]), jnp.float64))
    assert_close(cast(out.carry[0], jnp.float64), wide.carry[0], rtol=1e-3)  # features hold differences of gradients

    keys = jax.random.split(key, 2)
    batch = jax.vmap(lambda k: unroll(game(), optimizer, 3, k).carry[0])(keys)
    for i in range(2):
        assert_close(entry(batch, i), unroll(game(), optimizer, 3, keys[i]).carry[0], rtol=1e-10)

    traces = []

    @eqx.filter_jit
    def step(optimizer, players, state):
        traces.append(None)
        return optimizer.step(game(), players, state, None)

    players = game().init(key)
    for scale in (0.1, 0.2, 0.3):
        o = eqx.tree_at(lambda o: o.output_scale, optimizer, jnp.asarray(scale))
        step(o, players, o.init(game(), players, key))
    assert len(traces) == 1


def test_gradient_with_respect_to_the_scale(key):
    """With second derivatives on, the derivative through four steps is the central difference."""
    problem = game()
    players = problem.init(key)

    def final(scale):
        optimizer = TwinLSTM((3,), output_scale=scale, second_derivatives=True, key=key)
        return problem.payoff(unroll(problem, optimizer, 4, key, players).carry[0], None)

    slope = jax.grad(final)(jnp.asarray(0.3))
    expected = (final(jnp.asarray(0.3 + 1e-5)) - final(jnp.asarray(0.3 - 1e-5))) / 2e-5
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_save_and_load(key, tmp_path):
    optimizer = nx.learned.TwinKrylov(memory=3, key=key)
    nx.learned.save(tmp_path / "twin.safetensors", optimizer)
    assert eqx.tree_equal(nx.learned.load(tmp_path / "twin.safetensors"), optimizer)


def test_presets_have_the_published_constants(key):
    paper, release = (nx.learned.preset(name, key=key) for name in ("twin-paper", "twin-release"))
    assert isinstance(paper.rule, nx.learned.GradientRule)
    rule = release.rule
    assert (rule.detach_iterates, float(rule.state_rescale), float(rule.initial_noise)) == (True, 1e-4, 0.01)
    assert [float(x) for x in (rule.warmup_fraction, rule.warmup_start, rule.warmup_stop)] == [0.2, 1e-4, 0.1]
    assert release.max_step is paper.max_step is None
    assert {o.networks[0].hidden_sizes for o in (paper, release)} == {(50, 50)}
    assert nx.learned.preset("twin-release-matrix", key=key).networks[0].hidden_sizes == (80, 80)


def test_the_released_preset_warms_up_in_solve(key):
    """Its moves k = 1, 2, ... have the published sizes, whoever runs it."""
    problem = nx.problems.Seesaw(1.0, 1.0)
    release = nx.learned.preset("twin-release", key=key)
    players = (jnp.array(0.1), jnp.array(0.2))
    moved = nx.solve(problem, release, num_steps=1, key=key, players=players).players
    sizes = [float(abs(a - b)) for a, b in zip(moved, players)]
    np.testing.assert_allclose(sizes, [1e-4, 1e-4 + 0.0999 / 20], rtol=1e-9)  # 20 of the 100 moves of 50 steps


def test_errors(key, unchecked):
    optimizer = TwinLSTM((3,), key=key)
    for problem in (Quadratic(jnp.ones(2)), Bilinear(jnp.array(1.0))):
        for learned in (optimizer, nx.learned.TwinKrylov(key=key)):
            with pytest.raises(ValueError, match="zero-sum games of two players"):
                learned.init(problem, problem.init(key), key)
    players = ((jnp.ones(1), jnp.ones(1)), jnp.ones(2))
    with pytest.raises(ValueError, match="2 and 1 leaves"):
        begin(optimizer, game(), players, key)
    with pytest.raises(ValueError, match="got 2 and 3"):
        TwinLSTM((3,), sharing="two-lstm-share-hidden", key=key).init(game(2, 3), game(2, 3).init(key), key)
    with pytest.raises(ValueError, match="'secant', 'gradients'"):
        TwinLSTM(rule="raw", key=key)
    with pytest.raises(ValueError, match="share-lstm-share-hidden"):
        TwinLSTM(sharing="both", key=key)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least one layer"):
        TwinLSTM((), key=key)
    with pytest.raises(ValueError, match="needs the steps of a run"):
        TwinLSTM(rule="released", key=key)
    with pytest.raises(ValueError, match="`horizon` must be a positive"):
        ReleasedRule(horizon=0)
    with pytest.raises(ValueError, match="warmup_fraction"):
        ReleasedRule(horizon=10, warmup_fraction=1.5)
    with pytest.raises(ValueError, match="Did you mean 'twin-release'"):
        nx.learned.preset("twin-relese", key=key)
    with pytest.raises(ValueError, match="`memory` must be at least 1"):
        nx.learned.TwinKrylov(memory=0, key=key)
