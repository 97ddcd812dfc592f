"""Hypernetworks: against closed forms of quadratic problems, a loop by hand, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import data, hyper, problems

from ..helpers import assert_close, assert_identical
from .problems import ridge

FAMILIES = hyper.LinearResponse(), hyper.FactorizedResponse(2), hyper.MLPResponse(4)
NESTED = {"a": jnp.ones((2, 3)), "b": (jnp.zeros(()),)}


def tune(problem, method, **kwargs):
    given = {
        "optimizer": nx.optimizers.sgd(0.2),
        "outer_optimizer": nx.optimizers.sgd(0.05),
        "num_outer_steps": 1_000,
        "num_inner_steps": 1,
        "record_every": 500,
        "key": jax.random.key(0),
    }
    return hyper.tune(problem, method=method, **{**given, **kwargs})


def sample_of(problem):
    return jax.tree.map(lambda x: x[0], problem.samples(jax.random.key(1), 1))


def slopes(prepared, parameters, hyperparameters):
    """The Jacobian of the response at the point that it is centred at."""
    around = jax.lax.stop_gradient(hyperparameters)
    return jax.jit(jax.jacobian(lambda h: prepared.respond(parameters, h, around)))(hyperparameters)


@pytest.fixture(scope="module")
def quadratic():
    return ridge((0.5, 0.8, 1.2, 1.5))


@pytest.fixture(scope="module")
def best(quadratic):
    """The response is $B \\lambda$, and this is where the outer loss along it is least."""
    matrix = jnp.linalg.solve(quadratic.curvature, quadratic.mixed)
    inverse = jnp.linalg.inv(matrix.T @ matrix + jnp.eye(3))
    return matrix, inverse @ (matrix.T @ quadratic.target - quadratic.slope)


def check_solved(quadratic, best, method, tuning):
    """Slopes, hyperparameters and hypergradient are exact, since the response of a quadratic problem is linear."""
    matrix, optimum = best
    prepared = method.prepare(quadratic)
    located, parameters = tuning.state.players
    np.testing.assert_allclose(slopes(prepared, parameters, located.hyperparameters), matrix, atol=1e-3)
    np.testing.assert_allclose(tuning.players[0], optimum, atol=1e-3)
    np.testing.assert_allclose(tuning.players[1], quadratic.response(tuning.players[0]), atol=1e-3)
    elsewhere = tuning.state.players[0].hyperparameters + 0.3
    fresh = hyper.Located(elsewhere), {**parameters, "weights": prepared.respond(parameters, elsewhere, optimum)}
    sampling = hyper.Around(method.sampling.unit(elsewhere))
    if isinstance(method.sampling, hyper.Normal):
        fresh, sampling = (hyper.Located(elsewhere), parameters), method.sampling
    method = hyper.Hypernetwork(method.response, sampling)
    there = method.prepare(quadratic)
    out = hyper.hypergradient(there, fresh, sample_of(there), method)
    np.testing.assert_allclose(out.gradient.hyperparameters, quadratic.exact(elsewhere), atol=5e-3)


@pytest.mark.training
def test_algorithm_3_finds_response_and_optimum(quadratic, best):
    method = hyper.Hypernetwork(hyper.LinearResponse(), hyper.Around(0.1), num_samples=8)
    check_solved(quadratic, best, method, tune(quadratic, method))


@pytest.mark.training
def test_algorithm_2_finds_response_and_optimum(quadratic, best):
    """Two phases: the response alone, then hyperparameters with the response fixed, whose parameters stay."""
    method = hyper.Hypernetwork(hyper.LinearResponse(), hyper.Normal(0.0, 2.0), num_samples=8)
    prepared = method.prepare(quadratic)
    inner = nx.InnerProblem(prepared, prepared.init(jax.random.key(0))[0])
    (parameters,) = nx.solve(inner, nx.optimizers.sgd(0.2), num_steps=1_000, key=jax.random.key(1)).players
    tuning = tune(quadratic, method.fitted(parameters), num_inner_steps=0)
    check_solved(quadratic, best, method, tuning)
    assert_identical(tuning.state.players[1], parameters)


def test_a_step_is_that_of_algorithm_3_by_hand(quadratic):
    """The mean over a pair of draws, with the centre held constant; then the gradient through the response."""
    response, draws = hyper.LinearResponse(), np.random.default_rng(0).normal(size=(2, 3))
    method = hyper.Hypernetwork(response, hyper.Around(0.1, antithetic=False))
    prepared = method.prepare(quadratic)
    located, _ = prepared.init(jax.random.key(0))
    h = located.hyperparameters
    parameters = {
        "weights": jnp.asarray(draws[0, 0] + jnp.arange(4.0)),
        "slopes": jnp.asarray(draws[:1].T * np.ones((1, 4))),
    }
    sample = sample_of(prepared)
    sampled = method.sampling.draw(sample.key, h, None, 2)
    got = jax.jit(jax.grad(prepared.inner_loss, argnums=1))(located, parameters, sample)
    want = jax.tree.map(jnp.zeros_like, parameters)
    for one in sampled:
        delta = (one - h) / 0.1
        weights = parameters["weights"] + delta @ parameters["slopes"]
        field = quadratic.curvature @ weights - quadratic.mixed @ one
        want = {"weights": want["weights"] + field / 2, "slopes": want["slopes"] + jnp.outer(delta, field) / 2}
    assert_close(got, want)
    out = hyper.hypergradient(prepared, (located, parameters), sample, method)
    through = parameters["slopes"] @ (parameters["weights"] - quadratic.target) / 0.1
    np.testing.assert_allclose(out.gradient.hyperparameters, quadratic.slope + h + through, rtol=1e-9)
    assert float(out.value) == pytest.approx(float(quadratic.outer_loss(h, parameters["weights"], None)))


def test_the_local_tangent_of_a_ridge_regression_is_that_of_its_closed_form():
    """Not linear in the hyperparameters: within 5 % for a scale of 0.05."""
    inputs = np.random.default_rng(0).normal(size=(2, 20, 3))
    train, valid = (data.Regression(jnp.asarray(x), jnp.asarray(x @ [1.0, -0.5, 0.3] + 0.2), "toy") for x in inputs)
    problem = problems.NestedRegression(train, valid, initial=-1.0)
    method = hyper.Hypernetwork(hyper.LinearResponse(), hyper.Around(0.05), num_samples=8)
    prepared = method.prepare(problem)
    located, _ = prepared.init(jax.random.key(0))
    inner = nx.InnerProblem(prepared, located)
    (parameters,) = nx.solve(inner, nx.optimizers.sgd(0.06), num_steps=2_000, key=jax.random.key(1)).players
    got = slopes(prepared, parameters, located.hyperparameters)
    base = np.asarray(located.hyperparameters)
    ends = [[problem.best_response(jnp.asarray(base + sign * 1e-5 * unit)) for sign in (1, -1)] for unit in np.eye(4)]
    want = np.stack([(high - low) / 2e-5 for high, low in ends], axis=1)
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_at_the_centre_the_response_is_the_weights(family):
    parameters = family.init(jax.random.key(0), 5, NESTED)
    parameters["slopes"] = jax.tree.map(lambda x: x + 1, parameters["slopes"])
    if "hidden" in parameters and isinstance(family, hyper.MLPResponse):  # all of its units off
        parameters["hidden"]["bias"] = -jnp.ones(4)
    assert_identical(family(parameters, jnp.zeros(5)), NESTED)
    away = family(parameters, 3 * jnp.ones(5))
    assert away["a"].shape == (2, 3)
    assert float(abs(away["a"] - 1).max()) > 0.1


@pytest.mark.parametrize(("family", "num", "count"), [
    (hyper.MLPResponse(50), 1, 400_450),
    (hyper.LinearResponse(), 1, 15_700),
    (hyper.FactorizedResponse(10), 7_850, 164_860),
    (hyper.LinearResponse(), 10, 86_350),
])  # fmt: skip
def test_numbers_of_parameters(family, num, count):
    weights = {"weight": jnp.zeros((784, 10)), "bias": jnp.zeros(10)}
    parameters = jax.eval_shape(lambda key: family.init(key, num, weights), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters)) == count


@pytest.mark.parametrize(("num", "size"), [(2, 5), (5, 2)])
def test_a_factorized_response_of_full_rank_is_any_linear_one(num, size, key):
    keys = jax.random.split(key, 3)
    linear = {"weights": jax.random.normal(keys[0], (size,)), "slopes": jax.random.normal(keys[1], (num, size))}
    hidden, slopes = (jnp.eye(num), linear["slopes"]) if num < size else (linear["slopes"], jnp.eye(size))
    rank = min(num, size)
    factors = {
        "weights": linear["weights"],
        "slopes": slopes,
        "hidden": {"weight": np.sqrt(num) * hidden, "bias": jnp.zeros(rank)},
    }
    delta = jax.random.normal(keys[2], (num,))
    assert_close(hyper.FactorizedResponse(rank)(factors, delta), hyper.LinearResponse()(linear, delta))


def test_the_entropy_has_its_closed_form():
    sampling = hyper.AdaptiveAround(0.5, entropy_weight=0.3)
    spread = sampling.initial_spread(jnp.zeros(3)) + jnp.array([-1.0, 0.0, 2.0])
    deviation = jax.nn.softplus(spread)
    gradient = jax.jit(jax.grad(lambda s: -sampling.entropy(s)))(spread)
    np.testing.assert_allclose(gradient, -0.3 * jax.nn.sigmoid(spread) / deviation, rtol=1e-9)
    exact = 0.3 * np.sum(np.log(np.asarray(deviation) * np.sqrt(2 * np.pi * np.e)))
    assert float(sampling.entropy(spread)) == pytest.approx(exact)


def test_the_gradient_of_the_spread_is_that_of_finite_differences(quadratic):
    """Through the draws and the entropy, with the centre held constant, as the formula has it."""
    method = hyper.Hypernetwork(hyper.LinearResponse(), hyper.AdaptiveAround(0.5, 0.1), num_samples=3)
    prepared = method.prepare(quadratic)
    located, parameters = prepared.init(jax.random.key(0))
    parameters["slopes"] = parameters["slopes"] + 0.3
    sample = sample_of(prepared)
    got = hyper.hypergradient(prepared, (located, parameters), sample, method).gradient.spread
    spread, step = np.asarray(located.spread), 1e-5

    def loss(spread):
        deviation = np.log1p(np.exp(spread))
        noise = np.asarray(method.sampling.draw(sample.key, jnp.zeros(3), jnp.full(3, 0.541324854612918), 3))
        total = 0.0
        for one in noise:  # drawn with the standard deviation 1
            h = located.hyperparameters + deviation * one
            weights = parameters["weights"] + deviation * one / 0.5 @ parameters["slopes"]
            total += float(quadratic.outer_loss(h, weights, None)) / 3
        return total - 0.1 * np.sum(np.log(deviation))

    want = [(loss(spread + step * unit) - loss(spread - step * unit)) / (2 * step) for unit in np.eye(3)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_scale_that_collapses_is_clipped_and_reported(quadratic):
    sampling = hyper.AdaptiveAround(0.01, entropy_weight=0.0, smallest=5e-3)
    method = hyper.Hypernetwork(sampling=sampling)
    with pytest.warns(UserWarning, match=r"scales of 3 of 3 hyperparameters collapsed to their lower bound, 0.005"):
        tuning = tune(quadratic, method, outer_optimizer=optax.adam(0.5), num_outer_steps=20, record_every=10)
    assert tuning.history[-1]["smallest_scale"] == pytest.approx(5e-3)
    again = jax.jit(jax.grad(lambda s: -hyper.AdaptiveAround(smallest=1.0).entropy(s)))(jnp.full(1, -9.0))
    assert float(again[0]) < -9e-4  # the entropy raises it again


def test_samplings_draw_what_they_say(key):
    like = {"x": jnp.zeros(2), "y": jnp.ones(())}
    pair = hyper.Around({"x": 0.1, "y": 2.0}).draw(key, like, None, 3)
    np.testing.assert_allclose(pair[0] + pair[2], [0, 0, 2], atol=1e-12)
    assert pair.shape == (3, 3)
    box = hyper.Uniform({"x": -1.0, "y": 5.0}, {"x": 1.0, "y": 6.0}).draw(key, like, None, 1_000)
    np.testing.assert_allclose(box.mean(0), [0, 0, 5.5], atol=0.1)
    assert box[:, 2].min() > 5
    assert box.max() < 6
    normal = hyper.Normal(1.0, 2.0).draw(key, like, None, 4_000)
    np.testing.assert_allclose(normal.mean(0), 1, atol=0.15)
    np.testing.assert_allclose(normal.std(0), 2, rtol=0.05)
    points = {"x": jnp.arange(6.0).reshape(3, 2), "y": jnp.arange(3.0)}
    among = hyper.Among(points)
    np.testing.assert_array_equal(among.draw(key, like, None, 3)[1], [2, 3, 1])
    assert {float(row[2]) for row in among.draw(key, like, None, 50)} == {0.0, 1.0, 2.0}
    np.testing.assert_allclose(among.origin(like), [2, 3, 1])


def test_a_fixed_center_is_the_published_form(quadratic):
    """$w = A \\lambda + b$: where nothing is centred, the response at the start is not the weights given."""
    method = hyper.Hypernetwork(sampling=hyper.Around(1.0, center=0.0))
    prepared = method.prepare(quadratic)
    parameters = {"weights": jnp.ones(4), "slopes": jnp.eye(3, 4)}
    h = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(prepared.respond(parameters, h), [2, 3, 4, 1])
    np.testing.assert_allclose(hyper.hypergradient(
        prepared, (hyper.Located(h), parameters), sample_of(prepared), method
    ).gradient.hyperparameters, quadratic.slope + h + (jnp.array([2, 3, 4, 1.0]) - quadratic.target)[:3])  # fmt: skip


def test_a_run_goes_on_and_keeps_the_best_in_the_variables_of_the_problem(quadratic, tmp_path):
    method = hyper.Hypernetwork(hyper.FactorizedResponse(2))
    settings = {"record_every": 2, "num_outer_steps": 6, "evaluate": lambda players: {"size": players[1].size}}
    whole = tune(quadratic, method, **settings)
    part = tune(quadratic, method, **settings, run=tmp_path, callback=lambda record: record["record"] == 1)
    assert len(part.history) == 2
    resumed = tune(quadratic, method, **settings, run=tmp_path, resume=True)
    assert_identical(resumed.players, whole.players)
    assert_identical(resumed.state.players, whole.state.players)
    assert whole.history[0]["size"] == 4
    assert [x.shape for x in whole.best] == [(3,), (4,)]
    with pytest.raises(ValueError, match="method"):
        tune(quadratic, hyper.Hypernetwork(hyper.FactorizedResponse(3)), **settings, run=tmp_path, resume=True)


class Wrong(hyper.AbstractBestResponse):
    """A family that forgets an axis."""

    def init(self, key, num_hyperparameters, weights):
        return {"weights": weights}

    def __call__(self, parameters, delta):
        return parameters["weights"][None]


class Discrete(nx.AbstractNested, nx.AbstractDeterministicProblem):
    """The number of something."""

    def init(self, key):
        return jnp.array([3]), jnp.zeros(2)

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.sum(weights)

    def inner_loss(self, hyperparameters, weights, sample):
        return jnp.sum(weights * hyperparameters)


class Barrier(nx.AbstractNested, nx.AbstractDeterministicProblem):
    """A validation loss that is finite for hyperparameters above zero alone."""

    def init(self, key):
        return jnp.ones(()), jnp.ones(())

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.log(hyperparameters) * 10 + weights

    def inner_loss(self, hyperparameters, weights, sample):
        return (weights - hyperparameters) ** 2


@pytest.mark.parametrize(("make", "message"), [
    (lambda: hyper.Around(-0.1), "`scale` must be a finite number of at least 0"),
    (lambda: hyper.AdaptiveAround(0.0), "`scale` must be a positive finite number"),
    (lambda: hyper.AdaptiveAround(entropy_weight=-1), "`entropy_weight` must be"),
    (lambda: hyper.Uniform(1.0, 1.0), "`low` must be below `high`"),
    (lambda: hyper.Among(jnp.ones((1, 3))), "at least two"),
    (lambda: hyper.FactorizedResponse(0), "`rank` must be an integer"),
    (lambda: hyper.Hypernetwork(num_samples=0), "`num_samples` must be an integer"),
    (lambda: hyper.Hypernetwork(hyper.LinearResponse), "call it"),  # pyright: ignore[reportArgumentType]
    (lambda: tune(ridge(), hyper.Hypernetwork(Wrong())), r"Wrong does not return .* expected shape \(4,\)"),
    (lambda: tune(Discrete(), hyper.Hypernetwork()), r"`hyperparameters` is discrete, of dtype int.* Relax it"),
    (lambda: tune(ridge(), hyper.Hypernetwork(sampling=hyper.Around({"x": 1.0}))), "`scale` must be one number"),
    (lambda: tune(ridge(), hyper.Hypernetwork(sampling=hyper.Normal(jnp.ones(2)))), r"`mean` has a leaf of shape \(2,"),
    (lambda: tune(ridge(), hyper.Hypernetwork(), num_inner_steps=0), "was `fitted` before"),
    (lambda: tune(ridge(), hyper.Hypernetwork().fitted({"weights": jnp.ones(4)})), "`parameters` has the wrong pytree"),
    (lambda: hyper.hypergradient(ridge(), ridge().init(jax.random.key(0)), None, hyper.Hypernetwork()), "prepare"),
])  # fmt: skip
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_scale_of_zero_warns():
    with pytest.warns(UserWarning, match="slope, the response of the weights, is not identified"):
        hyper.Around(0.0)


def test_a_validation_loss_that_is_not_finite_is_an_error():
    method = hyper.Hypernetwork()
    with pytest.raises(nx.NumericalError, match="the outer loss is inf or NaN"):
        tune(Barrier(), method, optimizer=nx.optimizers.sgd(0.1), outer_optimizer=nx.optimizers.sgd(0.3))
