"""What a user sees where implicit differentiation fails, and what bad input says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import hyper

from .problems import Noisy, ridge
from .test_hypergradient import WithRate


def players_of(problem):
    return problem.init(jax.random.key(1))


def failing(problem, method, players=None, **kwargs):
    players = players_of(problem) if players is None else players
    return hyper.hypergradient(problem, players, None, method, **kwargs)


def test_a_singular_curvature_is_named_and_the_pseudo_inverse_offered():
    problem = ridge((0.0, 0.5, 1.0))
    with pytest.raises(nx.NumericalError, match=r"singular: its smallest pivot is .*damping.*pinv=True"):
        failing(problem, hyper.Implicit(hyper.Exact()))
    out = failing(problem, hyper.Implicit(hyper.Exact(pinv=True)))
    hyperparameters, weights = players_of(problem)
    vector = weights - problem.target
    expected = problem.slope + hyperparameters + vector @ jnp.linalg.pinv(problem.curvature) @ problem.mixed
    np.testing.assert_allclose(out.gradient, expected, rtol=1e-9)
    assert float(out.info.solver.condition) == pytest.approx(2.0)
    # a cut above the middle eigenvalue keeps only the largest
    few = failing(problem, hyper.Implicit(hyper.Exact(pinv=True, rcond=0.7), residual=False))
    assert float(few.info.solver.condition) == pytest.approx(1.0)


def test_neumann_is_finite_on_a_singular_curvature():
    """Along the null space the gain is alpha times the number of terms."""
    problem = ridge((0.0, 0.5, 1.0))
    out = failing(problem, hyper.Implicit(hyper.Neumann(7, 0.6), residual=False))
    null = jnp.linalg.eigh(problem.curvature)[1][:, 0]
    vector = players_of(problem)[1] - problem.target
    assert float(null @ out.adjoint) == pytest.approx(float(0.6 * 7 * null @ vector), rel=1e-9)


def test_a_divergent_series_says_the_largest_safe_alpha():
    problem = ridge((0.5, 1.0, 4.0))
    method = hyper.Implicit(hyper.Neumann(40, 0.7))
    with pytest.raises(nx.NumericalError, match=r"largest eigenvalue is about 4, so the largest safe alpha is 0\.5\b"):
        failing(problem, method)
    out = failing(problem, method, throw=False)
    assert out.info.solver.diverged
    assert not out.info.solver.indefinite
    assert float(out.info.largest_safe_alpha) == pytest.approx(0.5, rel=1e-3)
    assert jnp.all(jnp.isfinite(out.gradient))
    # no more terms were added than those below ten times the first
    assert jnp.linalg.norm(out.adjoint) < 0.7 * 40 * 10 * jnp.linalg.norm(players_of(problem)[1] - problem.target)
    below = failing(problem, hyper.Implicit(hyper.Neumann(40, 0.49), residual=False))
    assert not below.info.solver.diverged


def test_negative_curvature_is_flagged():
    problem = ridge((-0.5, 0.4, 1.0))
    with pytest.raises(nx.NumericalError, match=r"negative \(-0\.\d+\).*no alpha makes it converge"):
        failing(problem, hyper.Implicit(hyper.Neumann(60, 0.8)))
    with pytest.warns(UserWarning, match=r"CG met negative curvature.*gradient has norm"):
        out = failing(problem, hyper.Implicit(hyper.CG(10)))
    assert out.info.solver.indefinite
    assert float(out.info.solver.min_rayleigh) < 0
    assert jnp.all(jnp.isfinite(out.gradient))
    with pytest.warns(UserWarning, match="Neumann met negative curvature"):
        failing(problem, hyper.Implicit(hyper.Neumann(5, 0.8)))
    # solvers for it, and damping, do not complain, and are right
    exact = problem.exact(players_of(problem)[0])
    hyperparameters = players_of(problem)[0]
    players = (hyperparameters, problem.response(hyperparameters))
    for solver in (hyper.NormalCG(12), hyper.GMRES(6), hyper.Exact()):
        np.testing.assert_allclose(failing(problem, hyper.Implicit(solver), players).gradient, exact, rtol=1e-7)
    assert not failing(problem, hyper.Implicit(hyper.CG(10), damping=0.8)).info.solver.indefinite


def test_an_unconverged_inner_problem_is_reported_with_its_gradient_norm():
    problem = ridge()
    hyperparameters, weights = players_of(problem)
    norm = jnp.linalg.norm(problem.curvature @ weights - problem.mixed @ hyperparameters)
    with pytest.warns(UserWarning, match=f"its gradient has norm {float(norm):.3g}, above 0.001"):
        out = failing(problem, hyper.Implicit(hyper.CG(5)), inner_tolerance=1e-3)
    assert float(out.info.inner_gradient_norm) == pytest.approx(float(norm))
    solved = (hyperparameters, problem.response(hyperparameters))
    failing(problem, hyper.Implicit(hyper.CG(5)), solved, inner_tolerance=1e-3)  # silent: warnings are errors here


def test_kinks_carry_no_curvature_and_an_l1_penalty_no_mixed_derivative_at_zero():
    """Documented: the Hessian of |w| is zero, and where w = 0 so is the mixed derivative of its penalty."""

    class Lasso(nx.AbstractNested, nx.AbstractDeterministicProblem):
        def init(self, key):
            return jnp.ones(2), jnp.array([0.0, 1.0])

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.sum(weights)

        def inner_loss(self, hyperparameters, weights, sample):
            return 0.5 * jnp.sum((weights - 2) ** 2) + jnp.sum(hyperparameters * jnp.abs(weights))

    out = failing(Lasso(), hyper.Implicit(hyper.Exact()))
    np.testing.assert_allclose(jnp.asarray(out.adjoint), [1.0, 1.0])  # the curvature of the smooth part alone
    assert out.gradient[1] == -1


def test_a_hyperparameter_outside_the_inner_loss_is_refused_by_name():
    problem = WithRate(ridge())
    with pytest.raises(ValueError, match=r"`hyperparameters\['rate'\]` does not enter .*inner loss.*needs `Unrolled`"):
        failing(problem, hyper.Implicit())
    players = players_of(problem)
    with pytest.raises(ValueError, match=r"\['rate'\]"):
        jax.grad(lambda h: jnp.sum(hyper.best_response(problem, h, players[1], optimizer=optax.sgd(0.1), num_steps=1)))(
            players[0]
        )


def test_a_hyperparameter_of_the_outer_loss_alone_is_no_mistake():
    class Both(nx.AbstractNested, nx.AbstractDeterministicProblem):
        def init(self, key):
            return {"inner": jnp.ones(2), "outer": jnp.full((2,), 3.0)}, jnp.ones(2)

        def outer_loss(self, hyperparameters, weights, sample):
            return 0.5 * jnp.sum((weights - hyperparameters["outer"]) ** 2)

        def inner_loss(self, hyperparameters, weights, sample):
            # a loop and a jitted part: what does not depend on `outer` must be seen through both
            total = jax.lax.fori_loop(0, 3, lambda i, t: t + jax.jit(jnp.sin)(weights) * 0, weights)
            return jnp.sum((total - hyperparameters["inner"]) ** 2) + jnp.sum(hyperparameters["outer"])

    out = failing(Both(), hyper.Implicit(hyper.Exact()))
    np.testing.assert_allclose(out.gradient["outer"], [2.0, 2.0])
    np.testing.assert_allclose(out.gradient["inner"], [-2.0, -2.0])


def test_a_diverging_unroll_is_an_error():
    problem = ridge()
    with pytest.raises(nx.NumericalError, match="Lower the inner learning rate"):
        failing(problem, hyper.Unrolled(nx.optimizers.sgd(1e200), 5))


def test_a_solution_that_is_not_finite_is_an_error():
    class Bad(nx.AbstractNested, nx.AbstractDeterministicProblem):
        def init(self, key):
            return jnp.ones(2), jnp.zeros(2)

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.sum(jnp.sqrt(weights))  # an infinite gradient at 0

        def inner_loss(self, hyperparameters, weights, sample):
            return jnp.sum((weights - hyperparameters) ** 2)

    with pytest.raises(nx.NumericalError):
        failing(Bad(), hyper.Implicit(hyper.CG(3)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: hyper.Neumann(0), "num_terms"),
        (lambda: hyper.Neumann(3, -0.1), "`alpha` must be positive"),
        (lambda: hyper.Neumann(3, "automatic"), '"auto"'),
        (lambda: hyper.Neumann(3, 0.1, 0.5), "growth"),
        (lambda: hyper.Identity(0.0), "positive"),
        (lambda: hyper.CG(0), "num_steps"),
        (lambda: hyper.GMRES(0), "num_steps"),
        (lambda: hyper.Nystrom(0), "rank"),
        (lambda: hyper.Implicit(hyper.Nystrom(3)), "low-rank matrix plus damping"),
        (lambda: hyper.Implicit(damping=-1.0), "`damping` must be a finite number of at least 0"),
        (lambda: hyper.Implicit(damping=float("inf")), "`damping` must be a finite number"),
        (lambda: hyper.CG(rtol=1.5), "`rtol` must be at least 0 and below 1"),
        (lambda: hyper.MINRES(rtol=-1.0), "`rtol`"),
        (lambda: hyper.NormalCG(atol=float("inf")), "`atol` must be a finite number"),
        (lambda: hyper.Neumann(3, float("inf")), "`alpha` must be a positive finite number"),
        (lambda: hyper.Neumann(3, growth=float("inf")), "`growth` must be a finite number"),
        (lambda: hyper.Exact(rcond=2.0), "`rcond` must be at least 0 and below 1"),
        (lambda: hyper.ExponentialTolerance(decay=2.5), "`decay` must be between 0 and 1"),
        (lambda: hyper.Unrolled(nx.optimizers.sgd(0.1), 0), "num_steps"),
        (lambda: hyper.Unrolled(nx.optimizers.sgd(0.1), 5, last=6), "between 1 and `num_steps`"),
        (lambda: failing(ridge(), hyper.Implicit(hyper.Nystrom(5), damping=1.0)), r"more columns .*\(4\)"),
        (lambda: failing(ridge(), hyper.Implicit(hyper.CG(3), hyper.GaussNewton())), "AbstractNestedModel"),
        (lambda: failing(ridge(), None, (jnp.ones(3),)), "has two players"),
        (lambda: failing(ridge(), None, (jnp.ones(3), None)), "`weights` hold no arrays"),
        (lambda: failing(ridge(), None, (jnp.ones(3, int), jnp.ones(4))), "floating-point"),
        (lambda: failing(ridge(), None, guess=jnp.ones(5)), "`guess` has shape"),
        (lambda: failing(ridge(), hyper.Unrolled(nx.optimizers.Extragradient(0.1), 2)), None),
    ],
)
def test_bad_input(make, match):
    if match is None:
        make()  # two gradients per step, but one sample: it unrolls
        return
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.usefixtures("unchecked")
def test_wrong_types():
    with pytest.raises(ValueError, match="`method` must be an object of the type `AbstractMethod`"):
        failing(ridge(), hyper.Neumann())
    settings = {"optimizer": optax.sgd(0.1), "num_steps": 1, "method": hyper.Direct()}
    players = players_of(ridge())
    with pytest.raises(ValueError, match=r"must be .*`Implicit"):
        hyper.best_response(ridge(), *players, **settings)


def test_a_missing_sample_is_named():
    problem = Noisy()
    players = problem.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"`Noisy` is a stochastic problem, so the argument `batches` is missing"):
        hyper.hypergradient(problem, players)
    with pytest.raises(ValueError, match="the argument `batches` is missing"):
        hyper.check_hypergradient(problem, players)
    with pytest.raises(ValueError, match="the argument `sample` is missing"):
        hyper.best_response(problem, *players, optimizer=optax.sgd(0.1), num_steps=1, key=jax.random.key(0))


def test_a_matrix_that_is_too_large_is_refused():
    class Large(nx.AbstractNested, nx.AbstractDeterministicProblem):
        def init(self, key):
            return jnp.ones(40_000), jnp.ones(40_000)

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.sum(weights)

        def inner_loss(self, hyperparameters, weights, sample):
            return jnp.sum((weights - hyperparameters) ** 2)

    with pytest.raises(ValueError, match=r"40000 × 40000 matrix of 11\.9 GiB"):
        failing(Large(), hyper.Implicit(hyper.Exact()))
