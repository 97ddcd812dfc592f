"""The default method against closed forms, the solver behind it, and the check that is recommended to users."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import hyper

from ..helpers import cast
from .problems import curved, dense, flat, ridge, solved

CONDITION, FEATURES = 211, 38


class Penalties(nx.AbstractNested, nx.AbstractDeterministicProblem):
    """Ridge regression with the logarithm of a penalty per feature."""

    arrays: tuple

    def init(self, key):
        size, dtype = self.arrays[0].shape[1], self.arrays[0].dtype
        return jnp.full(size, -4.0, dtype), jnp.zeros(size, dtype)

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.mean((self.arrays[2] @ weights - self.arrays[3]) ** 2)

    def inner_loss(self, hyperparameters, weights, sample):
        inputs, targets = self.arrays[:2]
        return jnp.mean((inputs @ weights - targets) ** 2) + jnp.sum(jnp.exp(hyperparameters) * weights**2)

    def response(self, hyperparameters):
        inputs, targets = self.arrays[:2]
        matrix = inputs.T @ inputs / len(inputs) + jnp.diag(jnp.exp(hyperparameters))
        return jnp.linalg.solve(matrix, inputs.T @ targets / len(inputs))


@pytest.fixture(scope="module")
def penalties():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, FEATURES)))[0] for n in (120, FEATURES))
    scales = np.sqrt(np.geomspace(1 / CONDITION, 1, FEATURES))
    inputs, valid = left * scales @ right.T * np.sqrt(120), rng.normal(size=(80, FEATURES)) * scales @ right.T
    truth = rng.normal(size=FEATURES)
    targets, valid_targets = (x @ truth + 0.5 * rng.normal(size=len(x)) for x in (inputs, valid))
    return Penalties(tuple(jnp.asarray(x) for x in (inputs, targets, valid, valid_targets)))


@pytest.fixture(scope="module")
def at_minimum(penalties):
    """In float32, players at the minimum with small penalties, and the hypergradient by dense algebra in float64."""
    hyperparameters = jnp.full(FEATURES, -9.0)
    players = hyperparameters, penalties.response(hyperparameters)
    narrow = cast((penalties, players), jnp.float32)
    return *narrow, np.asarray(dense(penalties, players))


def test_the_default_is_within_a_percent_in_float32(at_minimum):
    """With a penalty per feature on 38 features of condition 211, where twenty Neumann terms were 73 % off."""
    problem, players, exact = at_minimum
    out = hyper.hypergradient(problem, players)
    assert out.gradient.dtype == jnp.float32
    assert np.linalg.norm(np.asarray(out.gradient) - exact) < 0.01 * np.linalg.norm(exact)
    assert float(out.info.residual) < 1e-3
    assert int(out.info.solver.num_products) < 60
    old = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.Neumann(20)), throw=False)
    assert np.linalg.norm(np.asarray(old.gradient) - exact) > 0.5 * np.linalg.norm(exact)


def test_tune_reaches_the_closed_form_by_default(penalties):
    """Within two percent of the validation loss that descent finds on the closed form, in float32."""

    @jax.jit
    def closed(hyperparameters):
        return penalties.outer_loss(None, penalties.response(hyperparameters), None)

    slope = jax.jit(jax.grad(closed))
    best, velocity = penalties.init(None)[0], jnp.zeros(FEATURES)
    for _ in range(400):
        velocity = 0.9 * velocity - 20 * slope(best)
        best = best + velocity
    start = closed(penalties.init(None)[0])
    assert closed(best) < 0.95 * start  # there is something to gain
    tuning = hyper.tune(
        cast(penalties, jnp.float32),
        optimizer=optax.adam(0.02),
        outer_optimizer=optax.adam(0.05),
        num_outer_steps=300,
        num_inner_steps=30,
        record_every=100,
        key=jax.random.key(0),
    )
    assert closed(cast(tuning.players[0], jnp.float64)) < 1.02 * closed(best)
    assert max(record["residual"] for record in tuning.history) < 0.1


def test_minimal_residuals_fall_where_conjugate_gradients_leap():
    """Both signs, and an eigenvalue next to zero: the residual is the smallest of the Krylov space at every step."""
    problem = ridge((-0.8, -0.3, 1e-4, 0.2, 0.7, 1.3))
    hyperparameters, weights = problem.init(jax.random.key(1))
    matrix, vector = np.asarray(problem.curvature), np.asarray(weights - problem.target)
    basis = np.stack([np.linalg.matrix_power(matrix, j) @ vector for j in range(6)], 1)
    for steps in (1, 3, 5):
        method = hyper.Implicit(hyper.MINRES(steps, rtol=0.0))
        info = hyper.hypergradient(problem, (hyperparameters, weights), None, method, throw=False).info
        space = matrix @ basis[:, :steps]
        left = vector - space @ np.linalg.lstsq(space, vector)[0]
        assert float(info.residual) == pytest.approx(np.linalg.norm(left) / np.linalg.norm(vector), rel=1e-6)
        assert int(info.solver.num_products) == steps
    assert info.solver.indefinite
    assert -0.8 <= float(info.solver.min_rayleigh) < 0
    assert float(info.solver.largest_eigenvalue) <= 1.3 + 1e-9
    with pytest.warns(UserWarning, match="MINRES met negative curvature"):
        out = hyper.hypergradient(problem, (hyperparameters, problem.response(hyperparameters)))
    np.testing.assert_allclose(out.gradient, problem.exact(hyperparameters), rtol=1e-5)


def test_minimal_residuals_on_singular_curvature():
    """In the range: a solution. Outside: the least residual, which is warned of. And nothing to do: no step."""
    problem = ridge((0.0, 0.5, 1.0))
    null = jnp.linalg.eigh(problem.curvature)[1][:, 0]
    hyperparameters, weights = problem.init(jax.random.key(1))
    inside = weights - null * (null @ (weights - problem.target))
    out = hyper.hypergradient(problem, (hyperparameters, inside))
    expected = jnp.linalg.pinv(problem.curvature) @ (inside - problem.target)
    np.testing.assert_allclose(flat(out.adjoint), expected, atol=1e-3)
    with pytest.warns(UserWarning, match="relative residual of"):
        out = hyper.hypergradient(problem, (hyperparameters, weights + 3 * null))
    vector = weights + 3 * null - problem.target
    share = abs(null @ vector) / jnp.linalg.norm(vector)
    assert float(out.info.residual) == pytest.approx(float(share), rel=1e-3)
    out = hyper.hypergradient(problem, (hyperparameters, problem.target))
    assert int(out.info.solver.num_products) == 0
    assert not jnp.any(flat(out.adjoint))


def test_a_warm_start_costs_one_product_and_saves_the_others(key):
    problem = ridge((0.1, 0.7, 1.0, 1.1, 2.0, 5.0))
    players = problem.init(key)
    first = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.MINRES(rtol=1e-8)))
    again = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.MINRES(rtol=1e-6)), guess=first.adjoint)
    assert int(again.info.solver.num_products) == 1
    assert hyper.Implicit(hyper.MINRES(warm_start=True)).warm_start


def test_tune_warns_of_large_residuals():
    problem = ridge((0.01, 0.5, 1.0))
    settings = {
        "optimizer": optax.sgd(0.5),
        "outer_optimizer": optax.sgd(0.01),
        "num_outer_steps": 4,
        "num_inner_steps": 3,
        "key": jax.random.key(0),
    }
    with pytest.warns(
        UserWarning, match=r"Neumann solved .* residual of 0\.\d+.*far off.*`MINRES\(\)`.*residual=False"
    ):
        hyper.hypergradient(problem, problem.init(jax.random.key(0)), None, hyper.Implicit(hyper.Neumann(1, 0.1)))
    with pytest.warns(UserWarning, match=r"In 4 of 4 records .* residual above 0\.1 only, at last 0\.\d+"):
        tuning = hyper.tune(problem, method=hyper.Implicit(hyper.Neumann(2)), **settings)
    assert all(record["residual"] > 0.1 for record in tuning.history)
    hyper.tune(problem, method=hyper.Implicit(hyper.Neumann(2), residual=False), **settings)  # meant: silent
    tuning = hyper.tune(problem, **settings)
    assert tuning.history[-1]["residual"] < 1e-3


def test_check_hypergradient_measures_what_is_off(key):
    """Against dense algebra, and against training that is longer than the weights were trained."""
    problem = curved()
    players = solved(problem, key)
    narrow, small = cast((problem, players), jnp.float32)
    good = hyper.check_hypergradient(narrow, small, optimizer=optax.sgd(0.5), num_steps=400)
    assert good.error < 1e-3
    assert good.difference_error < 1e-4
    assert good.cosine == pytest.approx(1, abs=1e-6)
    rough = hyper.Implicit(hyper.Identity())
    bad = hyper.check_hypergradient(narrow, small, None, rough)
    exact = dense(problem, players)
    gradient = flat(hyper.hypergradient(narrow, small, None, rough, throw=False).gradient)
    error = jnp.linalg.norm(gradient.astype(exact.dtype) - exact)
    assert bad.error == pytest.approx(float(error / jnp.linalg.norm(exact)), rel=1e-3)
    assert bad.error > 0.05
    assert np.isnan(bad.difference_error)
    assert "off by 0." in str(bad)
    # weights that are not trained out: the solver is right, and implicit differentiation is not
    away = small[0], jax.tree.map(lambda w: w + 0.5, small[1])
    early = hyper.check_hypergradient(narrow, away, optimizer=optax.sgd(0.5), num_steps=400)
    assert early.error < 1e-3
    assert early.difference_error > 0.1
    assert "retraining differ" in str(early)
    with pytest.raises(ValueError, match="led to inf or NaN"):
        hyper.check_hypergradient(narrow, small, optimizer=optax.sgd(1e200), num_steps=5)
