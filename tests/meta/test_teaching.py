"""Imitation and self-improving training against closed forms: inner dynamics that are linear, one learned rate."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import meta
from nestax.meta._teaching import AssistedGradient, ImitationGradient

from ..helpers import Quadratic
from .test_schedule import OPTIMIZER, PROBLEM, SGD, Rate

STEPS, TEACHER = 3, 0.2


def imitate(rate, teacher, problem=PROBLEM):
    """One truncation from the start of a run."""
    optimizer, estimator, key = Rate(jnp.asarray(rate)), ImitationGradient(teacher), jax.random.key(0)
    state = estimator.init(problem, optimizer, (problem.init(key), None), key)
    return estimator(optimizer, meta.Batch.of(problem, state, STEPS, key), meta.Sum())


def test_the_imitation_loss_is_its_closed_form():
    """sum_t (rate - teacher's)^2 |g_t|^2 / (2 P), on the teacher's trajectory, and its slope in the rate."""
    h = np.asarray(PROBLEM.curvature)
    gradients = h * (1 - TEACHER * h) ** np.arange(STEPS)[:, None]
    size = (gradients**2).sum()
    for rate in (0.5, 0.1, TEACHER):
        out, gradient = imitate(rate, nx.optimizers.sgd(TEACHER))
        np.testing.assert_allclose(out.values[0], (rate - TEACHER) ** 2 * size / 4, rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(gradient.rate, (rate - TEACHER) * size / 2, rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(out.state.players[0][0], (1 - TEACHER * h) ** STEPS, rtol=1e-10)


def test_imitation_of_a_representable_teacher_goes_to_zero(key):
    training = meta.train(
        OPTIMIZER,
        PROBLEM,
        schedule=[(6, 40)],
        unroll=3,
        teaching=meta.Imitation(optax.sgd(TEACHER), ratio=1.0),
        meta_optimizer=optax.sgd(0.1),
        key=key,
    )
    assert all(r["teacher"] == 0 for r in training.history)
    np.testing.assert_allclose(training.last.rate, TEACHER, atol=1e-5)
    assert training.history[-1]["meta_loss"] < 1e-8


def test_a_recurrent_network_runs_along(key):
    """Its state, moments included, is what the teacher's gradients make of it; its updates are not applied."""
    rnnprop, teacher = nx.learned.RNNprop((3,), 2, key=key), nx.optimizers.adam(0.1)
    estimator, players = ImitationGradient(teacher), PROBLEM.init(key)
    state = estimator.init(PROBLEM, rnnprop, (players, rnnprop.init_update(players)), key)
    out, _ = eqx.filter_jit(estimator)(rnnprop, meta.Batch.of(PROBLEM, state, STEPS, key), meta.Sum())
    own, taught, value = rnnprop.init_update(players), teacher.init(PROBLEM, players, key), 0.0
    for _ in range(STEPS):
        (gradient,) = nx.joint_gradient(PROBLEM, players, None)[1]
        updates, own = rnnprop.update((gradient,), own, players)
        moved, taught, _ = teacher.step(PROBLEM, players, taught, None)
        value += float(jnp.sum((moved[0] - players[0] - updates[0]) ** 2)) / 4
        players = moved
    np.testing.assert_allclose(out.values[0], value, rtol=1e-9)
    for a, b in zip(jax.tree.leaves(out.state.learner), jax.tree.leaves(own)):
        np.testing.assert_allclose(a[0], b, rtol=1e-9)


def test_imitation_on_some_coordinates_is_unbiased(key):
    """All of them: the same loss and gradient. A quarter: the same mean over draws, which last a run."""
    problem = Quadratic(jnp.linspace(0.5, 3.0, 16))
    rnnprop, teacher, players = nx.learned.RNNprop((3,), 2, key=key), nx.optimizers.adam(0.1), problem.init(key)
    carry = (players, rnnprop.init_update(players))

    @eqx.filter_jit
    def imitated(coordinates, key):
        estimator = ImitationGradient(teacher, coordinates=coordinates)
        state = estimator.init(problem, rnnprop, carry, key)
        out, gradient = estimator(rnnprop, meta.Batch.of(problem, state, STEPS, key), meta.Sum())
        return out.values[0], gradient.network, out.state.players

    whole = imitated(None, key)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(imitated(meta.CoordinateSum(16), key))):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    drawn = jax.vmap(lambda k: imitated(meta.CoordinateSum(4), k))(jax.random.split(key, 400))
    assert np.std(drawn[0]) > 0
    for many, one in zip(jax.tree.leaves(drawn), jax.tree.leaves(whole)):
        error = np.std(many, axis=0) / np.sqrt(400)
        assert np.all(np.abs(np.mean(many, axis=0) - one) <= 4.5 * error + 1e-12 * np.abs(one))


def test_ratios_per_stage_and_moments_of_each_teacher(key):
    teachers = [nx.optimizers.sgd(0.1), optax.adam(0.1)]
    imitation = meta.Imitation(teachers, ratio=(0.0, 0.5, 1.0))
    own = meta.TruncatedBackprop()
    keys = jax.random.split(key, 60)
    shares = []
    for stage in range(5):
        lessons = [imitation.lesson(k, 0, stage, own) for k in keys]
        shares.append(np.mean([lesson.teacher is not None for lesson in lessons]))
        assert all(lesson.moments == (0 if lesson.teacher is None else 1 + lesson.teacher) for lesson in lessons)
    assert shares[0] == 0
    assert shares[2] == shares[3] == shares[4] == 1
    assert abs(shares[1] - 0.5) < 4 * 0.5 / np.sqrt(60)
    assert {lesson.teacher for lesson in lessons} == {0, 1}
    assert (imitation.num_moments, meta.Imitation(teachers, separate_moments=False).num_moments) == (3, 1)
    assert meta.Imitation(teachers, 1.0, separate_moments=False).lesson(key, 0, 0, own).moments == 0


def test_without_imitation_nothing_changes(key):
    settings = {"schedule": [(6, 2)], "unroll": 3, "meta_optimizer": SGD, "key": key}
    plain = meta.train(OPTIMIZER, PROBLEM, **settings)
    taught = meta.train(OPTIMIZER, PROBLEM, **settings, teaching=meta.Imitation(nx.optimizers.sgd(0.1), ratio=0.0))
    assert eqx.tree_equal(plain.last, taught.last)


def test_the_two_published_shares():
    teachers = [nx.optimizers.adam(0.1), nx.optimizers.sgd(0.1), nx.optimizers.adagrad(0.1)]
    first, second = meta.SelfImproving(teachers), meta.SelfImproving(teachers, share=1 / 3)
    np.testing.assert_allclose(first.shares(0), [0.25] * 4, rtol=1e-6)
    np.testing.assert_allclose(second.shares(0), [0.0, 1 / 3, 1 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(first.shares(50), [1 - 3 / 8, 1 / 8, 1 / 8, 1 / 8], rtol=1e-6)
    for each in (first, second):
        assert each.shares(100) == each.shares(10_000) == (1.0, 0.0, 0.0, 0.0)
    own = meta.CoordinateSum(256)
    assert first.lesson(jax.random.key(0), 100, 0, own).estimator is own
    assert isinstance(first.lesson(jax.random.key(0), 99, 0, own).estimator.estimator, meta.TruncatedBackprop)


def assisted(shares, key, num_steps=STEPS):
    estimator = AssistedGradient(meta.TruncatedBackprop(), (nx.optimizers.sgd(TEACHER),), jnp.asarray(shares))
    state = estimator.init(PROBLEM, OPTIMIZER, (PROBLEM.init(key), None), key)
    return estimator(OPTIMIZER, meta.Batch.of(PROBLEM, state, num_steps, key), meta.Last())


def slopes(n, num_steps, h, rate):
    """Of the last loss in the rate, for each order of n own steps and the teacher's, whose moves are held constant."""
    for own in itertools.combinations(range(num_steps), n):
        x, dx = np.ones(2), np.zeros(2)
        for t in range(num_steps):
            x, dx = ((1 - rate * h) * x, (1 - rate * h) * dx - h * x) if t in own else ((1 - TEACHER * h) * x, dx)
        yield float(np.sum(h * x * dx))


def test_steps_are_shared(key):
    """Alone either of them takes all steps; together each step is one of theirs, and pays for the optimizer's alone."""
    h, rate = PROBLEM.curvature, OPTIMIZER.rate
    out, gradient = assisted([0.0, 1.0], key)
    np.testing.assert_allclose(out.state[0][0][0], (1 - TEACHER * h) ** STEPS, rtol=1e-10)
    assert float(gradient.rate) == 0.0
    out, gradient = assisted([1.0, 0.0], key)
    np.testing.assert_allclose(out.state[0][0][0], (1 - rate * h) ** STEPS, rtol=1e-10)
    slope = jax.jit(jax.grad(lambda r: jnp.sum(h / 2 * (1 - r * h) ** (2 * STEPS))))(rate)
    np.testing.assert_allclose(gradient.rate, slope, rtol=1e-10)
    counts = []
    for seed in range(8):
        out, gradient = assisted([0.5, 0.5], jax.random.key(seed), num_steps=4)
        number = np.log(out.state[0][0][0] / (1 - TEACHER * h) ** 4) / np.log((1 - rate * h) / (1 - TEACHER * h))
        np.testing.assert_allclose(number, np.round(number[0]) * np.ones(2), atol=1e-6)  # a whole number
        n = round(float(number[0]))
        assert any(abs(float(gradient.rate) - slope) < 1e-8 for slope in slopes(n, 4, h, rate))
        counts.append(n)
    assert 0 < np.mean(counts) < 4


def test_a_teacher_at_a_gradient_of_zero(key):
    """Adam's root has no derivative there; images have pixels that are always 0."""
    problem = Quadratic(jnp.array([1.0, 0.0]))
    teaching = meta.SelfImproving(nx.optimizers.adam(0.1), share=0.5)
    training = meta.train(
        OPTIMIZER, problem, schedule=[(6, 2)], unroll=3, teaching=teaching, meta_optimizer=SGD, key=key
    )
    assert training.num_skipped == 0


def test_self_improving_training(key):
    """A coordinatewise network, with its default estimator and several tasks; in the second epoch it is alone."""
    rnnprop = nx.learned.RNNprop((3,), 2, key=key)
    teaching = meta.SelfImproving(nx.optimizers.adam(0.1), num_epochs=1)
    training = meta.train(rnnprop, PROBLEM, schedule=[(4, 2)], unroll=2, num_tasks=2, teaching=teaching, key=key)
    assert training.num_skipped == 0
    assert not eqx.tree_equal(training.last.network, rnnprop.network)


def test_a_teacher_that_diverges_ends_the_training(key):
    problem = Quadratic(jnp.array([1.0, 3.0]), 1e200)
    with pytest.raises(nx.NumericalError, match=r"the teacher number 0 diverged in epoch 0 .*Lower its learning rate"):
        meta.train(
            OPTIMIZER,
            problem,
            schedule=[(300, 1)],
            unroll=300,
            teaching=meta.Imitation(nx.optimizers.sgd(10.0), ratio=1.0),
            meta_optimizer=SGD,
            key=key,
        )


def test_errors():
    sgd = nx.optimizers.sgd(0.1)
    for make, match in (
        (lambda: meta.Imitation([]), "`teachers` is empty"),
        (lambda: meta.Imitation(sgd, ratio=1.2), "`ratio` must be between 0 and 1"),
        (lambda: meta.Imitation(sgd, ratio=(0.1, -0.1)), "`ratio` must be between 0 and 1"),
        (lambda: meta.Imitation(sgd, ratio=()), "`ratio` is empty"),
        (lambda: meta.SelfImproving([sgd, sgd], share=0.6), "at most 1/2"),
        (lambda: meta.SelfImproving([]), "`teachers` is empty"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
