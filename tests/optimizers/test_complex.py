"""Complex momentum and its relatives against their closed forms, real momentum, and Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.optimizers import aggregated_momentum, complex_adam, complex_momentum, linked_momentum

from ..helpers import Bilinear, Quadratic, assert_close, assert_identical, central_difference, unroll

GRADIENTS = np.random.default_rng(0).normal(size=(8, 3))
BETA, ALPHA = 0.8 * np.exp(0.4j), 0.1 - 0.03j


def updates_of(optimizer, gradients=GRADIENTS, dtype=jnp.float64):
    """The updates that a plain Optax loop gets, and the last state."""
    transformation = optimizer.as_optax() if isinstance(optimizer, nx.AbstractOptimizer) else optimizer
    params = jnp.zeros(np.shape(gradients)[1:], dtype)
    state, out = transformation.init(params), []
    update = jax.jit(transformation.update)
    for g in gradients:
        with jax.numpy_dtype_promotion("standard"):  # for Optax's own, which mix their counter with floats
            u, state = update(jnp.asarray(g, dtype), state, params)
        assert u.dtype == dtype or dtype == jnp.bfloat16
        out.append(np.asarray(u, np.float64))
    return np.stack(out), state


def complex_by_hand(alpha, beta, gradients=GRADIENTS):
    mu, out = np.zeros(np.shape(gradients)[1:], complex), []
    for g in gradients:
        mu = beta * mu - g
        out.append((alpha * mu).real)
    return np.stack(out)


@pytest.mark.parametrize("form", ["real", "complex"])
@pytest.mark.parametrize("alpha", [0.1, ALPHA])
def test_both_forms_are_the_complex_recursion(form, alpha):
    got, _ = updates_of(complex_momentum(alpha, BETA, form=form))
    np.testing.assert_allclose(got, complex_by_hand(alpha, BETA), rtol=1e-12, atol=1e-15)
    by_modulus, _ = updates_of(complex_momentum(alpha, 0.8, phase=0.4, form=form))
    np.testing.assert_allclose(by_modulus, got, rtol=1e-12, atol=1e-15)


def test_the_response_to_one_gradient_is_a_damped_cosine():
    impulse = np.zeros((51, 1))
    impulse[0] = 1.0
    k = np.arange(51)
    got, _ = updates_of(complex_momentum(1.0, 0.9, phase=np.pi / 8), impulse)
    np.testing.assert_allclose(got[:, 0], -(0.9**k) * np.cos(k * np.pi / 8), rtol=1e-10, atol=1e-14)
    imaginary, _ = updates_of(complex_momentum(-1.0j, 0.9, phase=np.pi / 8), impulse)  # Re(-i mu) = Im mu
    np.testing.assert_allclose(imaginary[:, 0], -(0.9**k) * np.sin(k * np.pi / 8), rtol=1e-10, atol=1e-14)


def test_without_a_phase_it_is_pi_over_eight():
    got, _ = updates_of(complex_momentum(0.1))
    np.testing.assert_allclose(got, complex_by_hand(0.1, 0.8 * np.exp(1j * np.pi / 8)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("phase", "sign"), [(0.0, 1.0), (np.pi, -1.0)])
def test_real_momentum_is_the_heavy_ball(phase, sign):
    got, _ = updates_of(complex_momentum(0.1, 0.7, phase=phase))
    expected, _ = updates_of(optax.sgd(0.1, momentum=sign * 0.7))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
    assert_close(got, updates_of(complex_momentum(0.1, -0.7, phase=np.pi - phase))[0], atol=1e-14)


def test_a_phase_and_its_negative_are_the_same():
    got, _ = updates_of(complex_momentum(0.1, 0.8, phase=0.7))
    mirrored, _ = updates_of(complex_momentum(0.1, 0.8, phase=-0.7))
    np.testing.assert_allclose(got, mirrored, rtol=1e-12, atol=1e-15)


def distances(alphas, moduli, phases, num_steps, key):
    """Final distance from the solution of the bilinear game with eigenvalues plus and minus i, after a start of 1."""

    def run(alpha, modulus, phase):
        optimizer = complex_momentum(alpha, modulus, phase=phase)
        out = unroll(Bilinear(jnp.array(1.0)), optimizer, num_steps, key, (jnp.array(1.0), jnp.array(0.0)))
        return jnp.hypot(*out.carry[0])

    return jax.jit(jax.vmap(run))(alphas, moduli, phases)


def test_real_momentum_diverges_on_a_bilinear_game_and_complex_momentum_converges(key):
    alphas, moduli = (jnp.asarray(x.ravel()) for x in np.meshgrid([0.03, 0.1, 0.5, 1.5], np.linspace(-0.95, 0.95, 15)))
    ends = distances(alphas, moduli, jnp.zeros_like(alphas), 1_000, key)
    assert jnp.all(ends > 1.001)
    # Lorraine et al. (2022): at least this rate, for almost positive and almost negative momentum.
    alphas, moduli = jnp.array([0.025, 0.75]), jnp.array([0.9, 0.986])
    phases = jnp.pi * jnp.array([1 / 16, 15 / 16])
    early, late = (distances(alphas, moduli, phases, n, key) for n in (1_000, 1_500))
    np.testing.assert_allclose((late / early) ** (1 / 500), [0.9729, 0.99980], atol=2e-3)
    assert jnp.all(late < early)
    assert late[0] < 1e-10


def test_the_rate_on_the_dirac_gan(key):
    """0.9 exp(i pi / 8) and a step of 0.1: a spectral radius of 0.985690, where the eigenvalues are plus, minus i/2."""
    optimizer = complex_momentum(0.1, 0.9, phase=np.pi / 8)
    start = (jnp.array(1.0), jnp.array(1.0))

    def distance(n):
        out = unroll(DIRAC, optimizer, n, key, start)
        return float(jnp.hypot(*out.carry[0]))

    beta, lam = 0.9 * np.exp(1j * np.pi / 8), 0.5j
    block = [
        [beta.real, -beta.imag, -lam],
        [beta.imag, beta.real, 0],
        [0.1 * beta.real, -0.1 * beta.imag, 1 - 0.1 * lam],
    ]
    radius = np.abs(np.linalg.eigvals(block)).max()
    assert abs(radius - 0.985690) < 1e-6
    assert abs((distance(1_200) / distance(600)) ** (1 / 600) - radius) < 1e-4


class Dirac(nx.AbstractMinimax, nx.AbstractDeterministicProblem):
    """The Dirac GAN, without its constant."""

    def init(self, key):
        return (jnp.array(1.0), jnp.array(1.0))

    def payoff(self, players, sample):
        return -jax.nn.softplus(-players[0] * players[1])


DIRAC = Dirac()


@pytest.mark.parametrize("form", ["real", "complex"])
def test_complex_adam_by_hand(form):
    got, _ = updates_of(complex_adam(0.1, 0.8, 0.9, 1e-3, 1e-4, phase=0.4, form=form))
    mu, v, expected = np.zeros(3, complex), np.zeros(3), []
    for t, g in enumerate(GRADIENTS, start=1):
        mu, v = BETA * mu - g, 0.9 * v + 0.1 * g**2
        expected.append(0.1 * mu.real / (np.sqrt(v / (1 - 0.9**t) + 1e-4) + 1e-3))
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-12)


def test_complex_adam_without_momentum_is_adam_without_momentum():
    for numbers in ((0.999, 1e-8, 0.0), (0.9, 1e-2, 0.0), (0.9, 0.0, 1e-3)):  # b2, eps, eps_root
        got, _ = updates_of(complex_adam(0.1, 0.0, *numbers))
        expected, _ = updates_of(optax.adam(0.1, 0.0, *numbers))
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_the_effective_step_of_complex_adam():
    got, _ = updates_of(complex_adam(1e-3), np.full((200, 1), 3.0))
    gain = (1 / (1 - 0.8 * np.exp(1j * np.pi / 8))).real
    assert abs(gain - 1.613) < 1e-3
    np.testing.assert_allclose(got[-1], -1e-3 * gain, rtol=1e-6)


def test_schedules():
    def schedule(count):
        return 0.1 * 0.5 ** (count.astype(float) / 2)

    got, _ = updates_of(complex_momentum(schedule, BETA))
    rates = 0.1 * 0.5 ** (np.arange(len(GRADIENTS)) / 2)
    np.testing.assert_allclose(got, rates[:, None] * complex_by_hand(1.0, BETA), rtol=1e-10)
    adam, _ = updates_of(complex_adam(schedule, BETA))
    constant, _ = updates_of(complex_adam(1.0, BETA))
    np.testing.assert_allclose(adam, rates[:, None] * constant, rtol=1e-10)


@pytest.mark.parametrize("form", ["complex", "real"])
def test_the_state_is_one_buffer_more(form):
    params = {"a": jnp.zeros((5, 3), jnp.float32), "b": jnp.zeros(7, jnp.float32)}

    def num_bytes(transformation):
        return sum(x.nbytes for x in jax.tree.leaves(transformation.init(params)))

    buffer = sum(x.nbytes for x in jax.tree.leaves(params))
    assert num_bytes(complex_adam(1e-3, form=form).as_optax()) == num_bytes(optax.adam(1e-3)) + buffer
    momentum = num_bytes(optax.sgd(1e-3, momentum=0.9))
    assert num_bytes(complex_momentum(1e-3, form=form).as_optax()) == momentum + buffer


@pytest.mark.parametrize("form", ["complex", "real"])
@pytest.mark.parametrize("make", [complex_momentum, complex_adam])
def test_bfloat16_is_computed_in_float32(make, form):
    got, state = updates_of(make(0.1, form=form), dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(state)} <= {jnp.dtype(x) for x in (jnp.float32, jnp.complex64, jnp.int32)}
    rounded = np.asarray(jnp.asarray(GRADIENTS, jnp.bfloat16), np.float64)
    np.testing.assert_allclose(got, updates_of(make(0.1), rounded)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["complex", "real"])
@pytest.mark.parametrize("make", [complex_momentum, complex_adam])
def test_trees_without_leaves(make, form):
    """Optax makes them where a transformation is for other parameters, or for none."""
    ours, params = make(0.1, form=form).as_optax(), {"g": jnp.ones(2), "d": jnp.ones(3)}
    gradients = jax.tree.map(jnp.ones_like, params)
    for transformation, updated in (
        (optax.multi_transform({"a": optax.sgd(0.1), "b": ours}, {"g": "a", "d": "a"}), optax.sgd(0.1)),
        (optax.masked(ours, {"g": False, "d": False}), optax.identity()),
    ):
        state = transformation.init(params)
        updates, new = jax.jit(transformation.update)(gradients, state, params)
        assert_close(updates, updated.update(gradients, updated.init(params))[0], rtol=1e-12)
        assert jax.tree.structure(new) == jax.tree.structure(state)
    assert ours.update({}, ours.init({}), {})[0] == {}


def linked_of(alpha, beta):
    matrix = jnp.array([[beta.real, beta.imag], [-beta.imag, beta.real]])
    return linked_momentum(matrix, jnp.array([1.0, 0.0]), jnp.array([alpha.real, -alpha.imag]))


def test_linked_momentum_contains_the_others():
    got, _ = updates_of(linked_of(ALPHA, BETA))
    np.testing.assert_allclose(got, complex_by_hand(ALPHA, BETA), rtol=1e-12, atol=1e-15)
    rates, momenta = np.array([0.1, 0.05, 0.02]), np.array([0.0, 0.9, -0.5])
    sums = sum(complex_by_hand(a, b) for a, b in zip(rates, momenta))
    got, _ = updates_of(aggregated_momentum(jnp.asarray(rates), jnp.asarray(momenta)))
    np.testing.assert_allclose(got, sums, rtol=1e-12, atol=1e-15)
    pair = jnp.array([BETA, 0.5 * BETA])
    got, _ = updates_of(aggregated_momentum(jnp.array([ALPHA, 0.2 + 0j]), pair))
    sums = complex_by_hand(ALPHA, BETA) + complex_by_hand(0.2, 0.5 * BETA)
    np.testing.assert_allclose(got, sums, rtol=1e-12, atol=1e-15)


def test_linked_momentum_by_hand():
    rng = np.random.default_rng(1)
    matrix, c, a = 0.3 * rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)
    mu, expected = np.zeros((3, 3)), []
    for g in GRADIENTS:
        mu = np.stack([sum(matrix[l, k] * mu[l] for l in range(3)) - c[k] * g for k in range(3)])
        expected.append(sum(a[k] * mu[k] for k in range(3)))
    got, _ = updates_of(linked_momentum(jnp.asarray(matrix), jnp.asarray(c), jnp.asarray(a)))
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-11, atol=1e-14)


def test_a_complex_number_is_a_leaf_of_the_adapter(key):
    problem = Quadratic(jnp.array([0.5, 2.0]))
    number = complex_momentum(0.1, complex(BETA))
    assert set(number.hyperparameters) == {"learning_rate", "momentum"}
    assert number.hyperparameters["momentum"].dtype == jnp.complex128
    pair = complex_momentum(0.1, 0.8, phase=0.4)
    wide = unroll(problem, number, 5, key)
    assert_close(wide.carry, unroll(problem, pair, 5, key).carry, rtol=1e-12)
    narrow = unroll(Quadratic(jnp.array([0.5, 2.0], jnp.float32)), number, 5, key)
    assert narrow.carry[0][0].dtype == jnp.float32
    np.testing.assert_allclose(narrow.carry[0][0], wide.carry[0][0], rtol=1e-5)


def test_derivatives_with_respect_to_modulus_and_phase(key):
    problem = Quadratic(jnp.array([0.5, 2.0]))

    def final_loss(modulus, phase):
        optimizer = complex_momentum(0.1, modulus, phase=phase)
        return problem.losses(unroll(problem, optimizer, 5, key).carry[0], None)[0]

    modulus, phase = jnp.array(0.8), jnp.array(0.4)
    got = jax.jit(jax.grad(final_loss, (0, 1)))(modulus, phase)
    expected = (
        central_difference(lambda m: final_loss(m, phase), modulus),
        central_difference(lambda p: final_loss(modulus, p), phase),
    )
    assert min(map(abs, expected)) > 1e-3
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_it_replaces_adam_in_a_plain_optax_loop():
    """Also inside `optax.chain` and on a tree; the state goes through `jit` unchanged in structure."""
    params = {"w": jnp.ones((2, 3)), "b": jnp.array(1.0)}
    transformation = optax.chain(optax.clip(0.5), complex_adam(1e-2).as_optax())
    state = transformation.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, new = jax.jit(transformation.update)(gradients, state, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    expected = jax.tree.map(lambda p: jnp.full_like(p, -1e-2), params)
    assert_close(updates, expected, rtol=1e-6)
    assert_close(transformation.update(gradients, state)[0], updates, rtol=1e-12)  # without parameters
    assert_identical(state, transformation.init(params))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [complex_momentum, complex_adam])
def test_bad_arguments(make):
    for bad in (1.0, -1.2, 0.8 + 0.7j):
        with pytest.raises(ValueError, match="modulus below 1"):
            make(0.1, bad)
    with pytest.raises(ValueError, match="has a phase already"):
        make(0.1, 0.5 + 0.2j, phase=0.1)
    with pytest.raises(ValueError, match="`form` must be one of"):
        make(0.1, form="polar")
    for params in (jnp.zeros(2, int), jnp.zeros(2, complex)):
        with pytest.raises(ValueError, match="real floating-point parameters"):
            make(0.1).init_update({"w": params})


@pytest.mark.usefixtures("unchecked")
def test_more_bad_arguments():
    with pytest.raises(ValueError, match="`learning_rate` must be a number or an array"):
        complex_adam(0.1j)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`matrix` has the shape \(K, K\)"):
        linked_momentum(jnp.eye(3), jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="spectral radius"):
        linked_momentum(jnp.array([[0.9, 0.5], [0.5, 0.9]]), jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="must be a vector"):
        aggregated_momentum(jnp.ones(1), jnp.array(0.5))
    with pytest.raises(ValueError, match="`momenta` must have a modulus below 1"):
        aggregated_momentum(jnp.ones(2), jnp.array([0.5, 1.0]))


def test_complex_adam_in_place_of_adam_turns_the_spiral_of_the_smallest_gan_inwards():
    """The loop of the README from 8 starts. Adam ends on a circle.

    Complex Adam's distance is not monotone: as gradients shrink, so do the denominators, and the rate grows until the
    players are thrown out a little again. So the median is tested, and that no run gets as far out as Adam.
    """
    game = nx.problems.DiracGAN()

    def distance(transformation, key):
        def step(_, carry):
            players, state = carry
            _, gradients = nx.joint_gradient(game, players, None)
            updates, state = transformation.update(gradients, state, players)
            return optax.apply_updates(players, updates), state

        start = game.init(key)
        with jax.numpy_dtype_promotion("standard"):
            players, _ = jax.lax.fori_loop(0, 5_000, step, (start, transformation.init(start)))
        return jnp.hypot(*players)

    keys = jax.random.split(jax.random.key(0), 8)
    complex_ends, adam_ends = (
        jax.vmap(lambda key, t=t: distance(t, key))(keys) for t in (complex_adam(0.01).as_optax(), optax.adam(0.01))
    )
    np.testing.assert_allclose(adam_ends, 3.0, atol=0.3)
    assert jnp.median(complex_ends) < 0.02
    assert complex_ends.max() < 1.5
