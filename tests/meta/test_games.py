"""Meta-objectives of games, curriculum, instances: closed forms, identities, finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import measures, meta

from ..helpers import Quadratic, assert_close

STEPS = 3
ADAM = optax.adam(1e-3)
PROBLEM = nx.problems.Seesaw(0.9, 1.1)
GRADIENT, SECOND = measures.SquaredGradientNorm(), measures.SquaredGradientNorm(player=1)


def path(num=5, seed=0):
    """An arbitrary unroll on Seesaw: players at num points."""
    x, y = np.random.default_rng(seed).uniform(-0.7, 0.7, (2, num))
    players = (jnp.asarray(x), jnp.asarray(y))
    return measures.Trajectory(PROBLEM, players, None, jnp.zeros((num, 2))), x, y


def f(x, y, a=0.9, b=1.1):
    return -b * y * np.sin(a * np.pi * x)


def gradients(x, y, a=0.9, b=1.1):
    return -a * b * np.pi * y * np.cos(a * np.pi * x), -b * np.sin(a * np.pi * x)


def test_objective_reward_is_its_identity():
    """Shen et al., eq. 4: the brackets add up to 2 sum f(x_t, y_{t-1}) - 2 sum_{t<T} f(x_t, y_t) - f(T) - f(0)."""
    unroll, x, y = path()
    half, full = f(x[1:], y[:-1]), f(x, y)
    expected = 2 * half.sum() - 2 * full[1:-1].sum() - full[-1] - full[0]
    for own in (False, True):  # the same number; only its gradient differs
        np.testing.assert_allclose(meta.ObjectiveReward(own)(unroll), expected, rtol=1e-12)
    skipped = expected - (half[-1] - full[-1])
    np.testing.assert_allclose(meta.ObjectiveReward(True, skip_last=True)(unroll), skipped, rtol=1e-12)


@pytest.mark.parametrize(
    ("skip", "x_weights", "y_weights"), [(False, [2, 2, 2, 2], [2, 2, 2, 1]), (True, [2, 2, 2, 1], [2, 2, 2, 0])]
)
def test_own_variable_reward_pays_each_move_through_its_own_variable(skip, x_weights, y_weights):
    unroll, x, y = path()

    def value(players):
        return meta.ObjectiveReward(skip_last=skip)(eqx.tree_at(lambda u: u.players, unroll, players))

    gx, gy = jax.jit(jax.grad(value))(unroll.players)
    np.testing.assert_allclose(gx[1:], np.array(x_weights) * gradients(x[1:], y[:-1])[0], rtol=1e-12)
    np.testing.assert_allclose(gy[1:], -np.array(y_weights) * gradients(x[1:], y[1:])[1], rtol=1e-12)


def test_literal_reward_pays_each_player_for_the_other_one_s_moves():
    """d/dx_t of the literal form has the opponent's terms as well: 2 f_x(x_t, y_{t-1}) - 2 f_x(x_t, y_t)."""
    unroll, x, y = path()

    def value(players):
        return meta.ObjectiveReward(own_variable=False)(eqx.tree_at(lambda u: u.players, unroll, players))

    gx, _ = jax.jit(jax.grad(value))(unroll.players)
    expected = 2 * gradients(x[2], y[1])[0] - 2 * gradients(x[2], y[2])[0]
    np.testing.assert_allclose(gx[2], expected, rtol=1e-10)


def test_gradient_objectives_are_their_formulas():
    unroll, x, y = path()
    a, b = 0.9, 1.1
    norms = a**2 * b**2 * np.pi**2 * y**2 * np.cos(a * np.pi * x) ** 2 + b**2 * np.sin(a * np.pi * x) ** 2  # eq. 38
    np.testing.assert_allclose(meta.TrajectorySum(GRADIENT)(unroll), norms[1:].sum(), rtol=1e-12)
    np.testing.assert_allclose(meta.TrajectorySum(measures.Hamiltonian())(unroll), norms[1:].sum() / 2, rtol=1e-12)
    np.testing.assert_allclose(meta.Relative(GRADIENT)(unroll), norms[1:].sum() / norms[0], rtol=1e-9)
    second = (b * np.sin(a * np.pi * x)) ** 2
    np.testing.assert_allclose(meta.TrajectorySum(SECOND)(unroll), second[1:].sum(), rtol=1e-12)
    logs = np.log(np.maximum(norms[1:] / norms[0], 0.5)).sum()
    np.testing.assert_allclose(meta.RelativeLog(GRADIENT, 0.5)(unroll), logs, rtol=1e-12)

    def value(players):  # the denominator is held constant
        return meta.Relative(GRADIENT)(eqx.tree_at(lambda u: u.players, unroll, players))

    assert float(jax.jit(jax.grad(value))(unroll.players)[0][0]) == 0.0


def test_nikaido_isoda_is_its_formula():
    unroll, x, y = path()
    middle, end = f(x[1:], y[:-1]), f(x[1:], y[1:])
    start = f(x[:-1], y[:-1])
    expected = ((middle - end) / (y[1:] - y[:-1])) ** 2 + ((start - end) / (x[1:] - x[:-1])) ** 2
    np.testing.assert_allclose(meta.NikaidoIsoda()(unroll), expected.sum(), rtol=1e-9)
    np.testing.assert_allclose(meta.NikaidoIsoda(1e6)(unroll), 0.0, atol=1e-5)


def test_gap_is_the_best_probe_of_either_player():
    """One coordinate each: the 17 offsets are a neighbourhood, whatever the gradient's sign."""
    offsets = np.linspace(-0.5, 0.5, 17)
    for x, y in ((0.3, 0.2), (-0.1, -0.4)):
        got = measures.Gap()(PROBLEM, (jnp.asarray(x), jnp.asarray(y)), None)
        np.testing.assert_allclose(got, f(x, y + offsets).max() - f(x + offsets, y).min(), rtol=1e-12)
    game = nx.problems.BilinearGame(jnp.array([[2.0, 0.0], [0.0, 1.0]]))
    x, y = jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])
    # along unit vectors the payoff is linear: |A^T x| delta + |A y| delta
    expected = 0.5 * (np.hypot(6.0, 4.0) + 2.0)
    np.testing.assert_allclose(measures.Gap()(game, (x, y), None), expected, rtol=1e-12)


def test_distance_is_that_of_the_problem():
    unroll, x, y = path()
    nearest = x - np.round(0.9 * x) / 0.9
    expected = (nearest**2 + y**2)[1:].sum()
    np.testing.assert_allclose(meta.TrajectorySum(measures.SquaredDistance())(unroll), expected, rtol=1e-10)


@pytest.mark.parametrize("objective", [meta.ObjectiveReward(own_variable=False), meta.Relative(GRADIENT)])
def test_meta_gradients_are_finite_differences(objective, key):
    """With second derivatives on nothing is held constant, apart from the carry and the first measure."""
    optimizer = nx.learned.TwinLSTM((3,), second_derivatives=True, key=key)
    players = (jnp.array(0.31), jnp.array(-0.22))
    batch = meta.Batch.of(PROBLEM, (players, optimizer.init(PROBLEM, players, key)), STEPS, key)
    run = eqx.filter_jit(lambda o: meta.TruncatedBackprop()(o, batch, objective))

    def get(o):
        return o.networks[1].cells[0].bias

    gradient = get(run(optimizer)[1])
    for i in (0, 5):
        moved = [eqx.tree_at(get, optimizer, get(optimizer).at[i].add(h)) for h in (1e-5, -1e-5)]
        values = [float(run(o)[0].values[0]) for o in moved]
        assert abs(gradient[i]) > 1e-6
        np.testing.assert_allclose(gradient[i], (values[0] - values[1]) / 2e-5, rtol=1e-5)


def test_an_unroll_is_what_a_rollout_visits(key):
    optimizer = nx.learned.TwinLSTM((2,), "gradients", key=key)
    players = PROBLEM.init(key)
    carry = (players, optimizer.init(PROBLEM, players, key))
    batch = meta.Batch.of(PROBLEM, carry, STEPS, key)
    out, _ = eqx.filter_jit(meta.TruncatedBackprop())(optimizer, batch, meta.ObjectiveReward())
    assert out.unrolls is not None
    seen, end = jax.tree.map(lambda x: x[0], (out.unrolls.players, out.state))
    state, visited = carry[1], [players]
    for _ in range(STEPS):
        players, state, _ = optimizer.step(PROBLEM, players, state, None)
        visited.append(players)
    assert_close(seen, jax.tree.map(lambda *p: jnp.stack(p), *visited), rtol=1e-10)
    assert_close(end, (players, state), rtol=1e-10)
    np.testing.assert_allclose(out.losses[0], f(np.asarray(seen[0]), np.asarray(seen[1])), rtol=1e-9)


def make(key, *, scale):
    return Quadratic(scale * jax.random.uniform(key, (2,), minval=1.0, maxval=2.0))


def test_drawn_problems_and_finite_sets(key):
    tasks = nx.FromSampler(make, scale=jnp.array(3.0))
    assert_close(tasks(key), make(key, scale=jnp.array(3.0)))
    instances = nx.Instances.draw(tasks, 5, key)
    singles = [make(k, scale=3.0).curvature for k in jax.random.split(key, 5)]
    chosen = instances.select(jax.random.split(key, 5))
    for i in range(5):  # as many tasks as instances: each of them once
        np.testing.assert_allclose(instances.get(chosen[i]).curvature, singles[i])
    subset = instances.select(jax.random.split(key, 3))
    assert len(set(map(int, subset))) == 3
    drawn = [instances(jax.random.key(s)).curvature for s in range(40)]
    assert {int(np.argmin([np.abs(d - s).sum() for s in singles])) for d in drawn} == set(range(5))


def test_random_units_scale_payoff_and_axis(key):
    game = nx.problems.Seesaw(2.0, 1.5)
    tasks = meta.RandomGameScale(game)
    scaled = jax.vmap(tasks)(jax.random.split(key, 400))
    for scale, decades in ((scaled.payoff_scale, 3), (scaled.axis_scale, 2)):
        used = np.asarray(scale) < 1
        assert abs(used.mean() - 0.5) < 0.1  # 4 standard errors
        logs = -np.log10(np.asarray(scale)[used])
        assert logs.min() >= 0
        assert logs.max() <= decades
        np.testing.assert_allclose(logs.mean(), decades / 2, rtol=0.15)
    one = jax.tree.map(lambda x: x[3], scaled)
    c, s = float(one.payoff_scale), float(one.axis_scale)
    players = (jnp.array(0.4), jnp.array(-0.3))
    np.testing.assert_allclose(one.payoff(players, None), c * f(s * 0.4, -0.3, 2.0, 1.5), rtol=1e-12)
    expected = nx.problems.Seesaw(2.0 * s, 1.5).distances(players)
    assert_close(one.distances(players), expected, rtol=1e-9)


def test_curriculum_keeps_the_easiest():
    curriculum = meta.InstanceCurriculum()
    assert [curriculum.fraction(e) for e in (0, 9, 80, 150)] == [0.2, pytest.approx(0.29), 1.0, 1.0]
    difficulties = jnp.array([5.0, 1.0, jnp.inf, 3.0, 2.0])
    for fraction, expected in ((0.2, [1]), (0.6, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4]), (0.01, [1])):
        np.testing.assert_array_equal(np.flatnonzero(curriculum.mask(difficulties, jnp.array(fraction))), expected)
    hundred = curriculum.mask(jnp.arange(100.0), jnp.asarray(0.29))
    assert int(hundred.sum()) == 29  # 0.29 * 100 is 28.999... in floating point
    unroll, _, _ = path()
    np.testing.assert_allclose(curriculum.measure(unroll), meta.TrajectorySum(SECOND)(unroll))


SMALL = {"schedule": [(4, 1)], "unroll": 2, "num_tasks": 4, "meta_loss": meta.Relative(GRADIENT)}


@pytest.mark.parametrize("ranked", ["update", "epoch"])
def test_a_curriculum_trains_on_the_easiest_instances(ranked, key):
    """One update of plain descent: with one of four, on the gradient of the easiest over 4; with all, on the mean."""
    optimizer = nx.learned.TwinLSTM((2,), "gradients", key=key)
    tasks = nx.Instances.draw(nx.FromSampler(nx.problems.Seesaw.random, a=(0.0, 5.0)), 4, key)
    settings = SMALL | {"schedule": [(2, 1)], "meta_optimizer": optax.sgd(1e-3)}
    curricula = [meta.InstanceCurriculum(start=start, ranked=ranked) for start in (0.3, 1.0)]
    one, everything = (
        meta.train(optimizer, tasks, curriculum=c, **settings, key=jax.random.key(0)).last for c in curricula
    )

    @eqx.filter_jit
    def unroll(i, k):
        _, init_key, state_key = jax.random.split(k, 3)
        problem = tasks.get(i)
        players = problem.init(init_key)
        carry = (players, optimizer.init(problem, players, state_key))
        out, gradient = meta.TruncatedBackprop()(optimizer, meta.Batch.of(problem, carry, 2, k), settings["meta_loss"])
        assert out.unrolls is not None
        players = jax.tree.map(lambda x: x[0], out.unrolls.players)
        path = measures.Trajectory(problem, players, None, out.unrolls.losses[0])
        return gradient.networks, curricula[0].measure(path)

    epoch_key = jax.random.fold_in(jax.random.split(jax.random.key(0))[0], 0)
    outs = [unroll(jnp.array(i), k) for i, k in enumerate(jax.random.split(epoch_key, 4))]
    easiest = min(outs, key=lambda out: float(out[1]))[0]
    weights = eqx.filter(optimizer.networks, eqx.is_inexact_array)
    mean = jax.tree.map(lambda *g: sum(g) / 4, *(gradient for gradient, _ in outs))
    for trained, gradient in ((one, jax.tree.map(lambda g: g / 4, easiest)), (everything, mean)):
        expected = jax.tree.map(lambda w, g: w - 1e-3 * g, weights, gradient)
        assert_close(eqx.filter(trained.networks, eqx.is_inexact_array), expected, rtol=1e-8)


def test_validation_by_a_score_and_on_other_problems(key):
    """The recorded score is the score of the same runs made one by one."""
    optimizer = nx.learned.TwinLSTM((2,), "gradients", key=key)
    saddle = nx.FixedProblem(nx.problems.RotatedSaddle(1.0, 1.0))
    validation = meta.Validation(
        every=1, horizon=8, num_runs=2, score=measures.TailDistance(part=0.5, order=2, log=False), tasks=saddle
    )
    out = meta.train(optimizer, PROBLEM, **SMALL, validation=validation, key=jax.random.key(0))
    keys = jax.random.split(jax.random.split(jax.random.key(0))[1], 2)
    means = []
    for k in keys:
        _, init_key, state_key, _ = jax.random.split(k, 4)
        problem = nx.problems.RotatedSaddle(1.0, 1.0)
        players = problem.init(init_key)
        state, distances = out.last.init(problem, players, state_key), []
        for _ in range(8):
            players, state, _ = out.last.step(problem, players, state, None)
            distances.append(float(players[0] ** 2 + players[1] ** 2))
        means.append(np.mean(distances[3:]))  # after 4 to 8 steps
    np.testing.assert_allclose(out.history[0]["validation"], np.mean(means), rtol=1e-9)


@pytest.mark.training
def test_the_default_recipe_learns(key):
    """A few updates of the default recipe on one easy game lower its meta-loss by more than a tenth."""
    optimizer = nx.learned.TwinLSTM((4,), key=key)
    settings = meta.twin_training() | {"schedule": [(10, 15)], "unroll": 10, "num_tasks": 4, "validation": None}
    tasks = nx.FromSampler(nx.problems.Seesaw.random)
    history = meta.train(optimizer, tasks, **settings, key=jax.random.key(0)).history
    assert history[-1]["meta_loss"] < 0.9 * history[0]["meta_loss"]


def test_runs_resume_bit_for_bit_with_a_curriculum(key, tmp_path):
    optimizer = nx.learned.TwinLSTM((2,), nx.learned.ReleasedRule(horizon=4), key=key)
    tasks = nx.Instances.draw(nx.FromSampler(nx.problems.Seesaw.random), 2, key)
    validation = meta.Validation(every=1, horizon=4, num_runs=2, score=measures.SuccessRate(), tasks=tasks)
    settings = SMALL | {"schedule": [(4, 2)], "curriculum": meta.InstanceCurriculum(0.5), "validation": validation}
    settings |= {
        "num_tasks": 2,
        "meta_optimizer": ADAM,
        "key": jax.random.key(0),
    }  # one object, so that the runs share their compilations
    whole = meta.train(optimizer, tasks, **settings)
    meta.train(optimizer, tasks, **settings, run=tmp_path, callback=lambda record: record["epoch"] == 0)
    resumed = meta.train(optimizer, tasks, **settings, run=tmp_path, resume=True)
    assert eqx.tree_equal(whole.last, resumed.last)
    assert eqx.tree_equal(whole.optimizer, resumed.optimizer)


def test_training_settings_are_the_published_ones():
    paper, release, ours = meta.twin_paper_training(), meta.twin_release_training(), meta.twin_training()
    assert (paper["schedule"], paper["unroll"], release["schedule"], release["unroll"]) == (
        ((1_000, 200),),
        10,
        ((50, 200),),
        5,
    )
    assert (paper["meta_loss"].own_variable, release["meta_loss"].skip_last) == (False, True)
    assert {s["num_tasks"] for s in (paper, release, ours)} == {128}
    assert release["validation"].horizon == 500
    horizon = nx.learned.PRESETS["twin-release"].arguments["rule"]["horizon"]
    assert release["schedule"][0][0] == horizon  # the warm-up is spread over the runs of the training


def test_errors(key, unchecked):
    twin, problem = nx.learned.TwinLSTM((3,), key=key), Quadratic(jnp.ones(2))
    carry = (PROBLEM.init(key), twin.init(PROBLEM, PROBLEM.init(key), key))
    with pytest.raises(ValueError, match=r"for problems with one player, got 2\. For games pass a meta-objective"):
        meta.TruncatedBackprop()(twin, meta.Batch.of(PROBLEM, carry, STEPS, key), meta.Sum())
    rnnprop = nx.learned.RNNprop((3,), 2, key=key)
    start = meta.Batch.of(problem, (problem.init(key), rnnprop.init_update(problem.init(key))), STEPS, key)
    with pytest.raises(ValueError, match="functions of the losses, got ObjectiveReward"):
        meta.CoordinateSum()(rnnprop, start, meta.ObjectiveReward())
    with pytest.raises(ValueError, match="`ObjectiveReward` is for zero-sum games of two players, got Quadratic"):
        meta.TruncatedBackprop()(rnnprop, start, meta.ObjectiveReward())
    with pytest.raises(ValueError, match="does not know the distance"):
        measures.SquaredDistance()(problem, problem.init(key), None)
    with pytest.raises(ValueError, match="must be a meta-objective"):
        meta.train(twin, PROBLEM, curriculum=meta.InstanceCurriculum(), key=key)
    with pytest.raises(ValueError, match="one of 'update', 'epoch'"):
        meta.InstanceCurriculum(ranked="step")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must be an odd number"):
        measures.Gap(num_offsets=4)
    with pytest.raises(ValueError, match="`RandomGameScale` is for zero-sum games"):
        meta.RandomGameScale(problem)(key)
    with pytest.raises(ValueError, match="one leading axis"):
        nx.Instances(nx.problems.BilinearGame(jnp.ones((2, 3)), 0.5))
    instances = nx.Instances.draw(nx.FromSampler(nx.problems.Seesaw.random), 2, key)
    with pytest.raises(ValueError, match="There are 2 instances"):
        instances.select(jax.random.split(key, 3))


def test_the_settings_of_a_krylov_method_are_one_unroll_per_epoch():
    settings = meta.krylov_training(7, unroll=5)
    assert (settings["schedule"], settings["unroll"]) == (((5, 7),), 5)
    assert (settings["validation"].every, settings["validation"].horizon) == (7, 20)
    with pytest.raises(ValueError, match="`floor` must be between 0 and 1"):
        meta.krylov_training(floor=2.0)
