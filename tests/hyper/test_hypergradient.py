"""Hypergradients against closed forms, dense linear algebra, finite differences, and each other."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import nestax as nx
from nestax import hyper

from ..helpers import CountTraces, assert_close, cast
from .problems import Ridge, curved, dense, flat, hessian, minimize, ridge, slopes, solved

EXACT = hyper.Implicit(hyper.Exact())


def gradient(problem, players, method):
    """Without the warning that a truncated inverse is a rough one."""
    return hyper.hypergradient(problem, players, None, method, throw=False).gradient


def series(matrix, alpha, num_terms):
    """The matrix of a truncated Neumann series, from the eigendecomposition."""
    values, vectors = jnp.linalg.eigh(matrix)
    return vectors @ jnp.diag((1 - (1 - alpha * values) ** num_terms) / values) @ vectors.T


def test_the_hypergradient_is_the_derivative_of_the_resolved_problem(key):
    """Central differences of the outer loss at weights solved anew, with a direct term that is not zero."""
    problem = curved()
    players = solved(problem, key)
    out = hyper.hypergradient(problem, players, None, EXACT)
    start, unravel = ravel_pytree(players[0])

    @jax.jit
    def value(h):
        return problem.outer_loss(unravel(h), minimize(problem, unravel(h), players[1]), None)

    step = 1e-5
    expected = [(value(start + e) - value(start - e)) / (2 * step) for e in step * jnp.eye(len(start))]
    np.testing.assert_allclose(flat(out.gradient), expected, rtol=1e-8)
    assert float(out.value) == pytest.approx(float(value(start)), rel=1e-14)
    direct = flat(gradient(problem, players, hyper.Direct()))
    assert jnp.abs(direct[-1]) > 0.01
    # the sign of the indirect part: adding it where it must be subtracted is far off
    wrong = 2 * direct - flat(out.gradient)
    assert jnp.linalg.norm(wrong - jnp.asarray(expected)) > 0.1 * jnp.linalg.norm(flat(out.gradient))


def test_a_step_against_the_hypergradient_lowers_the_outer_loss(key):
    problem = ridge()
    hyperparameters = problem.init(key)[0]
    players = (hyperparameters, problem.response(hyperparameters))
    out = hyper.hypergradient(problem, players, None, EXACT)
    np.testing.assert_allclose(out.gradient, problem.exact(hyperparameters), rtol=1e-10)
    moved = hyperparameters - 0.01 * out.gradient
    assert problem.outer_loss(moved, problem.response(moved), None) < out.value - 0.005 * jnp.sum(out.gradient**2)


SOLVERS = {
    "lu": (hyper.Exact(), 1e-11),
    "pinv": (hyper.Exact(pinv=True), 1e-11),
    "minres": (hyper.MINRES(12, rtol=0.0), 1e-9),
    "cg": (hyper.CG(12), 1e-9),
    "normal cg": (hyper.NormalCG(20), 1e-8),
    "gmres": (hyper.GMRES(10), 1e-9),
    "neumann": (hyper.Neumann(3000), 1e-9),
    # as large as the damping, which here only makes it exist
    "nystrom": (hyper.Nystrom(5), 1e-4),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_agrees_with_dense_algebra(name, key):
    """Hyperparameters and weights are pytrees; not at a minimum, since no solver may rely on it."""
    solver, rtol = SOLVERS[name]
    problem = curved()
    players = solved(problem, key)
    players = (players[0], jax.tree.map(lambda w: w + 0.1, players[1]))
    out = hyper.hypergradient(
        problem, players, None, hyper.Implicit(solver, damping=1e-7 if name == "nystrom" else 0.0)
    )
    np.testing.assert_allclose(flat(out.gradient), dense(problem, players), rtol=rtol)
    matrix = hessian(problem, *players)
    own, vector = slopes(problem, players)
    np.testing.assert_allclose(flat(out.adjoint), jnp.linalg.solve(matrix, vector), rtol=rtol)
    residual = jnp.linalg.norm(matrix @ flat(out.adjoint) - vector) / jnp.linalg.norm(vector)
    assert float(out.info.residual) == pytest.approx(float(residual), rel=0.1, abs=1e-6 if name == "nystrom" else 1e-10)
    assert float(out.info.inner_gradient_norm) == pytest.approx(float(jnp.linalg.norm(own)), rel=1e-12)
    assert float(out.info.inner_loss) == pytest.approx(float(problem.inner_loss(*players, None)), rel=1e-12)


@pytest.mark.parametrize("num_terms", [1, 2, 6, 21])
def test_neumann_is_its_closed_form(num_terms, key):
    """Both places of alpha: inside the contraction, and once outside."""
    problem = curved()
    players = solved(problem, key)
    matrix, alpha = hessian(problem, *players), 0.4
    out = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.Neumann(num_terms, alpha)), throw=False)
    np.testing.assert_allclose(
        flat(out.gradient), dense(problem, players, series(matrix, alpha, num_terms)), rtol=1e-11
    )
    assert int(out.info.solver.num_products) == num_terms - 1
    vector = slopes(problem, players)[1]
    left = jnp.linalg.matrix_power(jnp.eye(len(matrix)) - alpha * matrix, num_terms) @ vector
    residual = jnp.linalg.norm(left) / jnp.linalg.norm(vector)
    assert float(out.info.residual) == pytest.approx(float(residual), rel=1e-10)


def test_identity_is_one_term(key):
    problem = curved()
    players = solved(problem, key)
    one = gradient(problem, players, hyper.Implicit(hyper.Neumann(1, 0.3)))
    assert_close(gradient(problem, players, hyper.Implicit(hyper.Identity(0.3))), one, rtol=1e-14)
    np.testing.assert_allclose(
        flat(gradient(problem, players, hyper.Implicit(hyper.Identity()))),
        dense(problem, players, jnp.eye(5)),
        rtol=1e-12,
    )


@pytest.mark.parametrize("num_steps", [1, 2, 6])
def test_theorem_2(num_steps, key):
    """At the optimum, T unrolled steps of gradient descent are T Neumann terms, neither more nor fewer."""
    problem = curved()
    players = solved(problem, key)
    alpha = 0.5
    unrolled = flat(gradient(problem, players, hyper.Unrolled(nx.optimizers.sgd(alpha), num_steps)))
    terms = {
        n: flat(gradient(problem, players, hyper.Implicit(hyper.Neumann(n, alpha)))) for n in (num_steps, num_steps + 1)
    }
    np.testing.assert_allclose(unrolled, terms[num_steps], rtol=1e-10)
    assert jnp.linalg.norm(unrolled - terms[num_steps + 1]) > 1e-3 * jnp.linalg.norm(unrolled)


def test_theorem_2_needs_the_optimum(key):
    problem = curved()
    hyperparameters, weights = solved(problem, key)
    players = (hyperparameters, jax.tree.map(lambda w: w + 0.3, weights))
    unrolled = hyper.hypergradient(problem, players, None, hyper.Unrolled(nx.optimizers.sgd(0.5), 6))
    neumann = gradient(problem, (hyperparameters, unrolled.weights), hyper.Implicit(hyper.Neumann(6, 0.5)))
    difference = jnp.linalg.norm(flat(unrolled.gradient) - flat(neumann)) / jnp.linalg.norm(flat(neumann))
    assert difference > 0.01


def test_a_quadratic_needs_no_optimum(key):
    """H and M are constant, so that unrolling from anywhere is the series at its end."""
    problem = ridge()
    hyperparameters, weights = problem.init(key)
    unrolled = hyper.hypergradient(problem, (hyperparameters, weights + 2), None, hyper.Unrolled(optax.sgd(0.7), 5))
    neumann = gradient(problem, (hyperparameters, unrolled.weights), hyper.Implicit(hyper.Neumann(5, 0.7)))
    assert_close(unrolled.gradient, neumann, rtol=1e-12)


@functools.partial(jax.jit, static_argnums=(3, 4))
def lemma(problem, players, alpha, num_steps, last):
    r"""$\partial w_T / \partial\lambda = -\alpha \sum_j [\prod_{k<j} (I - \alpha H_{T-1-k})] M_{T-1-j}$, dense, by its
    last terms $j <$ `last`; and the hypergradient and the final weights with it.
    """
    start_h, unravel_h = ravel_pytree(players[0])
    w, unravel_w = ravel_pytree(players[1])

    def field(h, w):
        return jax.grad(lambda w: problem.inner_loss(unravel_h(h), unravel_w(w), None))(w)

    path = [w]
    for _ in range(num_steps):
        path.append(path[-1] - alpha * field(start_h, path[-1]))
    product, total = jnp.eye(len(w)), 0.0
    for j in range(last):
        at = path[num_steps - 1 - j]
        total = total - alpha * product @ jax.jacobian(field, 0)(start_h, at)
        product = product @ (jnp.eye(len(w)) - alpha * jax.jacobian(field, 1)(start_h, at))
    direct, vector = jax.grad(lambda h, w: problem.outer_loss(unravel_h(h), unravel_w(w), None), (0, 1))(
        start_h, path[-1]
    )
    return direct + vector @ total


def test_reverse_is_forward_is_the_lemma(key):
    """Away from the optimum, and truncated to the latest steps."""
    problem = curved()
    players = problem.init(key)
    for last, mode in ((None, hyper.Reverse()), (None, hyper.Forward()), (2, hyper.Reverse(nx.Segments(2)))):
        expected = lemma(problem, players, 0.8, 3, 3 if last is None else last)
        method = hyper.Unrolled(nx.optimizers.sgd(0.8), 3, last=last, mode=mode)
        np.testing.assert_allclose(flat(gradient(problem, players, method)), expected, rtol=1e-12)


def rate_and_decay(hyperparameters):
    return nx.optimizers.momentum(hyperparameters["rate"], 0.8)


class WithRate(nx.AbstractNested, nx.AbstractDeterministicProblem):
    """`Ridge` with the learning rate of its own inner optimizer as a hyperparameter more."""

    problem: Ridge

    def init(self, key):
        hyperparameters, weights = self.problem.init(key)
        return {"own": hyperparameters, "rate": jnp.asarray(0.2)}, weights

    def outer_loss(self, hyperparameters, weights, sample):
        return self.problem.outer_loss(hyperparameters["own"], weights, sample)

    def inner_loss(self, hyperparameters, weights, sample):
        return self.problem.inner_loss(hyperparameters["own"], weights, sample)


def test_unrolling_gives_the_gradient_of_a_learning_rate(key):
    """Through the state of the optimizer too; against finite differences of the training."""
    problem = WithRate(ridge())
    players = problem.init(key)
    out = hyper.hypergradient(problem, players, None, hyper.Unrolled(rate_and_decay, 6))

    def value(rate):
        w, velocity = players[1], jnp.zeros_like(players[1])
        for _ in range(6):
            velocity = 0.8 * velocity + problem.problem.curvature @ w - problem.problem.mixed @ players[0]["own"]
            w = w - rate * velocity
        return problem.outer_loss(players[0], w, None)

    expected = (value(0.2 + 1e-5) - value(0.2 - 1e-5)) / 2e-5
    assert float(out.gradient["rate"]) == pytest.approx(float(expected), rel=1e-7)
    assert float(out.value) == pytest.approx(float(value(0.2)), rel=1e-12)


def test_gauss_newton_and_empirical_fisher(key):
    """Against dense matrices from Jacobians, where neither is the Hessian."""
    problem = curved(bend=0.3)
    players = solved(problem, key)
    players = (players[0], jax.tree.map(lambda w: 0.8 * w, players[1]))
    start, unravel = ravel_pytree(players[1])

    def predict(w):
        return problem.predict(players[0], unravel(w), None)

    def losses(outputs):
        return problem.output_losses(players[0], outputs, None)

    penalty = jax.jit(jax.hessian(lambda w: problem.regularizer(players[0], unravel(w))))(start)
    outer = jnp.diag(1 + 0.6 * predict(start) ** 2) / 40  # of the mean of o²/2 + o⁴/20, over 40 examples
    jacobian = jax.jit(jax.jacobian(predict))(start)
    examples = jax.jit(jax.jacobian(lambda w: losses(predict(w))))(start)
    curvatures = (
        (hyper.GaussNewton(), jacobian.T @ outer @ jacobian + penalty),
        (hyper.EmpiricalFisher(), examples.T @ examples / len(examples) + penalty),
    )
    for curvature, matrix in curvatures:
        out = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.CG(12), curvature, damping=0.1))
        inverse = jnp.linalg.inv(matrix + 0.1 * jnp.eye(len(matrix)))
        np.testing.assert_allclose(flat(out.gradient), dense(problem, players, inverse), rtol=1e-8)
        norm = jnp.linalg.norm(slopes(problem, players)[0])
        assert float(out.info.inner_gradient_norm) == pytest.approx(float(norm), rel=1e-12)
        assert jnp.linalg.norm(matrix - hessian(problem, *players)) > 0.1


def test_nystrom_is_its_formula(key):
    problem = curved()
    players = solved(problem, key)
    matrix, rho, rank = hessian(problem, *players), 0.05, 3
    method = hyper.Implicit(hyper.Nystrom(rank, jax.random.key(4)), damping=rho)
    chosen = jax.random.choice(jax.random.key(4), len(matrix), (rank,), replace=False)
    columns = matrix[:, chosen]
    core = columns[chosen] + 1e-6 * jnp.trace(columns[chosen]) / rank * jnp.eye(rank)
    inverse = jnp.linalg.inv(columns @ jnp.linalg.inv(core) @ columns.T + rho * jnp.eye(len(matrix)))
    np.testing.assert_allclose(flat(gradient(problem, players, method)), dense(problem, players, inverse), rtol=1e-8)


def test_auto_alpha_is_the_inverse_of_the_largest_eigenvalue(key):
    """Eigenvalues well apart, so that ten steps of power iteration are enough."""
    problem = ridge((0.2, 0.3, 0.5, 4.0))
    players = problem.init(key)
    auto, given = (
        hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.Neumann(3, alpha), residual=False))
        for alpha in ("auto", 0.25)
    )
    assert_close(auto.gradient, given.gradient, rtol=1e-6)
    assert int(auto.info.solver.num_products) == int(given.info.solver.num_products) + 10


def test_a_pure_response_problem_has_no_direct_gradient(key):
    """Hyperparameters that act through the weights alone: zeros, not an error, and the indirect part remains."""
    problem = curved()
    hyperparameters, weights = solved(problem, key)
    assert not jnp.any(gradient(problem, (hyperparameters, weights), hyper.Direct())["decay"])
    assert jnp.all(gradient(problem, (hyperparameters, weights), EXACT)["decay"] != 0)


def test_any_problem_of_two_players_will_do(key):
    class Game(nx.AbstractDeterministicProblem):
        def init(self, key):
            return jnp.ones(2), jnp.ones(2)

        def losses(self, players, sample):
            x, y = players
            return 0.5 * jnp.sum((y - 3) ** 2) + jnp.sum(x), jnp.sum((y - x**2) ** 2)

    players = (jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
    # y = x^2, so the derivative is (y - 3) 2x + 1
    np.testing.assert_allclose(gradient(Game(), players, EXACT), [-3.0, 5.0], rtol=1e-12)


def test_best_response_differentiates_like_the_hypergradient(key):
    problem = curved()
    players = solved(problem, key)
    start = jax.tree.map(lambda w: w + 0.2, players[1])

    @jax.jit
    @jax.grad
    def differentiate(arguments):
        hyperparameters, start = arguments
        weights = hyper.best_response(
            problem, hyperparameters, start, optimizer=optax.sgd(0.5), num_steps=400, method=EXACT
        )
        return problem.outer_loss(hyperparameters, weights, None)

    got, of_start = differentiate((players[0], start))
    assert_close(got, gradient(problem, players, EXACT), rtol=1e-8)
    assert not jnp.any(flat(of_start))  # documented: the initial guess has no derivative


def test_fresh_batches(key):
    """Each term of the series multiplies by the Hessian of its own batch; the mixed derivative is that of the first."""

    class Scaled(nx.AbstractNested):
        def init(self, key):
            return jnp.ones(()), jnp.ones(())

        def outer_loss(self, hyperparameters, weights, sample):
            return weights * sample

        def inner_loss(self, hyperparameters, weights, sample):
            return 0.5 * sample * weights**2 - sample**2 * hyperparameters * weights

    batches = hyper.Batches(jnp.asarray(2.0), jnp.array([0.5, 1.5, 3.0]))
    method = hyper.Implicit(hyper.Neumann(3, 0.1, fresh_batches=True), residual=False)
    out = hyper.hypergradient(Scaled(), (jnp.ones(()), jnp.ones(())), batches, method)
    x = 0.1 * 2.0 * (1 + 0.85 + 0.85 * 0.7)
    assert float(out.gradient) == pytest.approx(x * 0.25, rel=1e-12)
    for wrong in (hyper.Implicit(hyper.CG(3)), hyper.Implicit(hyper.Neumann(2, 0.1, fresh_batches=True))):
        with pytest.raises(ValueError, match="stacks 3 samples"):
            hyper.hypergradient(Scaled(), (jnp.ones(()), jnp.ones(())), batches, wrong)


def test_new_numbers_do_not_retrace(key):
    problem = CountTraces.of(ridge())
    players = problem.init(key)
    for alpha, damping in ((0.1, 0.0), (0.2, 0.3)):
        gradient(problem, players, hyper.Implicit(hyper.Neumann(3, alpha), damping=damping))
    traces = len(problem.counter)
    gradient(problem, players, hyper.Implicit(hyper.Neumann(3, jnp.asarray(0.05)), damping=0.5))
    assert len(problem.counter) == traces
    for rtol in (0.0, 0.1):
        gradient(problem, players, hyper.Implicit(hyper.CG(3, rtol)))
    assert len(problem.counter) == 2 * traces


def test_vmap_and_derivatives_of_alpha():
    """A sweep over step sizes is a `vmap`, and alpha has a gradient: of the closed form on a quadratic."""
    problem = ridge()
    players = problem.init(jax.random.key(1))

    def total(alpha):
        return jnp.sum(gradient(problem, players, hyper.Implicit(hyper.Neumann(4, alpha))))

    def closed(alpha):
        vector = players[1] - problem.target
        return jnp.sum(problem.slope + players[0] + vector @ series(problem.curvature, alpha, 4) @ problem.mixed)

    alphas = jnp.array([0.1, 0.6])
    np.testing.assert_allclose(jax.vmap(total)(alphas), jax.vmap(closed)(alphas), rtol=1e-11)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(alphas[0]), jax.jit(jax.grad(closed))(alphas[0]), rtol=1e-10)


@pytest.mark.parametrize(
    "solver", [hyper.MINRES(8), hyper.Neumann(60), hyper.CG(8), hyper.GMRES(4), hyper.NormalCG(8), hyper.Exact()]
)
def test_float32(solver):
    problem = ridge(dtype=jnp.float32)
    players = problem.init(jax.random.key(1))
    out = hyper.hypergradient(problem, players, None, hyper.Implicit(solver))
    assert out.gradient.dtype == out.info.residual.dtype == jnp.float32
    wide = cast(problem, jnp.float64)
    matrix = np.linalg.inv(np.asarray(wide.curvature))
    vector = np.asarray(players[1], float) - np.asarray(wide.target)
    expected = np.asarray(wide.slope) + np.asarray(players[0], float) + vector @ matrix @ np.asarray(wide.mixed)
    # sixty terms leave (1 - 0.2 / 1.5)^60 = 2e-4 of the smallest eigenvalue's share
    # and MINRES stops at 3e-4 by default, unless four steps have solved it
    np.testing.assert_allclose(out.gradient, expected, rtol=2e-3 if isinstance(solver, hyper.Neumann) else 2e-5)


def test_cg_in_float32_survives_many_weights():
    """Eigenvalues in [0.05, 2] on 10⁵ coordinates, where a guard that scales with the size gives NaN."""

    class Diagonal(nx.AbstractNested, nx.AbstractDeterministicProblem):
        scale: jax.Array

        def init(self, key):
            return jnp.ones_like(self.scale), jnp.ones_like(self.scale)

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.sum(weights)

        def inner_loss(self, hyperparameters, weights, sample):
            return jnp.sum(0.5 * self.scale * weights**2 - hyperparameters * weights)

    scale = jnp.linspace(0.05, 2.0, 100_000, dtype=jnp.float32)
    problem = Diagonal(scale)
    out = hyper.hypergradient(problem, problem.init(jax.random.key(0)), None, hyper.Implicit(hyper.CG(60)))
    np.testing.assert_allclose(out.gradient, 1 / scale, rtol=1e-3)


def test_cg_stops_at_its_tolerance_and_starts_where_it_is_told(key):
    problem = ridge((0.1, 0.7, 1.0, 1.1, 2.0, 5.0))
    players = problem.init(key)
    loose = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.CG(20, rtol=0.1)))
    assert 1e-3 < float(loose.info.residual) <= 0.1
    assert int(loose.info.solver.num_products) < 6
    full = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.CG(20, rtol=1e-10)))
    again = hyper.hypergradient(problem, players, None, hyper.Implicit(hyper.CG(20, atol=1e-6)), guess=full.adjoint)
    assert int(again.info.solver.num_products) == 1  # the residual of the guess, and no step
    assert_close(again.gradient, full.gradient, rtol=1e-14)
    assert float(full.info.solver.min_rayleigh) >= 0.1 - 1e-9
    assert float(full.info.largest_safe_alpha) >= 2 / 5 - 1e-9


def test_lineax_solver():
    """Not symmetric, so the derivative needs the transpose; a series cut off is a failure."""
    matrix, vector = jnp.array([[2.0, 0.3], [0.1, 1.0]]), jnp.array([1.0, 2.0])

    def solve(matrix, vector, alpha=0.5, **kwargs):
        operator = lineax.MatrixLinearOperator(matrix)
        return lineax.linear_solve(operator, vector, hyper.NeumannSolver(200, alpha), **kwargs)

    np.testing.assert_allclose(solve(matrix, vector).value, jnp.linalg.solve(matrix, vector), rtol=1e-12)
    got = jax.jit(jax.jacobian(lambda m: solve(m, vector).value))(matrix)
    np.testing.assert_allclose(got, jax.jit(jax.jacobian(lambda m: jnp.linalg.solve(m, vector)))(matrix), rtol=1e-10)
    assert solve(matrix, vector, 5.0, throw=False).result == lineax.RESULTS.singular
    assert solve(matrix, vector).result == lineax.RESULTS.successful
    with pytest.raises(ValueError, match="square"):
        solve(jnp.ones((2, 3)), vector)


def test_a_nested_model_is_the_sum_of_its_parts(key):
    problem = curved()
    hyperparameters, weights = problem.init(key)
    weights = jax.tree.map(lambda w: w + 0.5, weights)
    outputs = problem.inputs @ weights["w"] + weights["b"][0] + hyperparameters["shift"][0]
    expected = jnp.mean((outputs - problem.targets) ** 2 / 2 + outputs**4 / 20)
    expected += jnp.sum(jnp.exp(hyperparameters["decay"]) * 0.25) + 0.05 * 0.25
    outer, inner = problem.losses((hyperparameters, weights), None)
    assert float(inner) == pytest.approx(float(expected), rel=1e-12)
    assert float(outer) == float(problem.outer_loss(hyperparameters, weights, None))
    joint = nx.joint_gradient(problem, (hyperparameters, weights), None)[1]
    assert_close(joint[1], jax.jit(jax.grad(problem.inner_loss, 1))(hyperparameters, weights, None), rtol=1e-12)


def test_memory_of_an_unroll_and_of_a_series(optimized):
    """Segments keep an order of magnitude less than all steps, and terms of a series cost no memory."""

    class Cubic(nx.AbstractNested, nx.AbstractDeterministicProblem):  # its steps must be kept: the curvature changes
        def init(self, key):
            return jnp.ones(500), jnp.zeros(500)

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.sum(weights**2)

        def inner_loss(self, hyperparameters, weights, sample):
            return jnp.sum((weights - hyperparameters) ** 4)

    problem = Cubic()
    players = problem.init(jax.random.key(0))

    def temporaries(method):
        function = eqx.filter_jit(lambda a, b, method: hyper.hypergradient(a, b, None, method).gradient)
        compiled = function.lower(problem, players, method).compile().compiled
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = (temporaries(hyper.Implicit(hyper.Neumann(n, 0.5))) for n in (3, 300))
    assert many == few
    sgd = nx.optimizers.sgd(0.5)
    default, every = (
        temporaries(hyper.Unrolled(sgd, 900, mode=hyper.Reverse(policy))) for policy in (None, nx.KeepAll())
    )
    assert 10 * default < every


@pytest.mark.parametrize(("rows", "policy"), [(10, nx.KeepAll), (100_000, nx.EveryStep)])
def test_the_default_policy_weighs_what_is_inside_a_step(rows, policy, monkeypatch):
    """A batch whose values do not fit a cache is computed again; nothing else changes."""
    chosen = []
    original = hyper.Reverse.checkpoint

    def spy(mode, num_steps, inside):
        chosen.append(original(mode, num_steps, inside))
        return chosen[-1]

    class Wide(nx.AbstractNested, nx.AbstractDeterministicProblem):
        def init(self, key):
            return jnp.ones(()), jnp.zeros(())

        def outer_loss(self, hyperparameters, weights, sample):
            return weights

        def inner_loss(self, hyperparameters, weights, sample):
            return jnp.mean((weights * jnp.ones(rows) - hyperparameters) ** 2)

    monkeypatch.setattr(hyper.Reverse, "checkpoint", spy)
    out = hyper.hypergradient(Wide(), Wide().init(jax.random.key(0)), None, hyper.Unrolled(nx.optimizers.sgd(0.25), 3))
    assert [type(c) for c in chosen] == [policy]
    assert float(out.gradient) == pytest.approx(1 - 0.5**3)
