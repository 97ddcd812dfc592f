"""Tuning: against a loop by hand, closed forms, and runs that go on.

What every long run does with its folder is tested in `tests/core/test_run.py`, with runs that cost nothing."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import hyper

from ..helpers import assert_close, assert_identical
from .problems import Noisy, ridge, settings


def tune(problem=None, **kwargs):
    given = {
        "problem": ridge() if problem is None else problem,
        "optimizer": nx.optimizers.sgd(0.5),
        "outer_optimizer": nx.optimizers.sgd(0.02),
        "method": hyper.Implicit(hyper.Neumann(4, 0.5), residual=False),
        "num_outer_steps": 6,
        "num_inner_steps": 2,
        "key": jax.random.key(0),
    }
    return hyper.tune(**{**given, **kwargs})


def test_it_is_algorithm_4():
    """A loop by hand: inner steps from the current weights, then one outer step with the hypergradient there."""
    problem = ridge()
    tuning = tune(outer_optimizer=optax.adam(0.1), optimizer=nx.optimizers.momentum(0.2, 0.5))
    hyperparameters, weights = problem.init(jax.random.split(jax.random.key(0), 3)[0])
    velocity, transformation = jnp.zeros_like(weights), optax.adam(0.1)
    state, identity = transformation.init(hyperparameters), jnp.eye(len(weights))
    factor = identity - 0.5 * problem.curvature
    inverse = 0.5 * (identity + factor + factor @ factor + factor @ factor @ factor)
    for k in range(6):
        for _ in range(2):  # the velocity goes on from one outer step to the next
            velocity = 0.5 * velocity + problem.curvature @ weights - problem.mixed @ hyperparameters
            weights = weights - 0.2 * velocity
        vector = weights - problem.target
        assert tuning.history[k]["outer_loss"] == pytest.approx(
            float(problem.outer_loss(hyperparameters, weights, None))
        )
        norm = jnp.linalg.norm(problem.curvature @ weights - problem.mixed @ hyperparameters)
        assert tuning.history[k]["inner_gradient_norm"] == pytest.approx(float(norm))
        gradient = problem.slope + hyperparameters + vector @ inverse @ problem.mixed
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes its integer counter with numbers
            updates, state = transformation.update(gradient, state)
        hyperparameters = hyperparameters + jnp.asarray(updates)
    assert_close(tuning.players, (hyperparameters, weights), rtol=1e-9)
    assert tuning.num_steps == 6
    assert tuning.result == nx.RESULTS.successful


def test_it_finds_the_best_hyperparameters():
    """The minimum of a quadratic in closed form; two outer steps per call are the same run as one."""
    problem = ridge()
    method = hyper.Implicit(hyper.Exact(), residual=False)
    settings = {"outer_optimizer": optax.sgd(0.04), "num_inner_steps": 20, "num_outer_steps": 1_000}
    tuning = tune(method=method, record_every=500, **settings)
    to_weights = jnp.linalg.solve(problem.curvature, problem.mixed)
    matrix = to_weights.T @ to_weights + jnp.eye(3)
    best = jnp.linalg.solve(matrix, to_weights.T @ problem.target - problem.slope)
    np.testing.assert_allclose(tuning.players[0], best, rtol=1e-6)
    assert tuning.history[0]["inner_steps"] == 10_000


def test_unrolled_steps_train():
    """Without other inner steps; each unroll goes on from the weights that the last one reached."""
    problem = ridge()
    tuning = tune(num_inner_steps=0, method=hyper.Unrolled(nx.optimizers.sgd(0.5), 3), num_outer_steps=2)
    hyperparameters, weights = problem.init(jax.random.split(jax.random.key(0), 3)[0])
    for _ in range(2):
        out = hyper.hypergradient(problem, (hyperparameters, weights), None, hyper.Unrolled(nx.optimizers.sgd(0.5), 3))
        hyperparameters, weights = hyperparameters - 0.02 * out.gradient, out.weights
    assert_close(tuning.players, (hyperparameters, weights), rtol=1e-10)


def test_shrinking_tolerances():
    """Inner rounds until the gradient is short enough, and CG to the same residual."""
    problem = ridge((0.1, 0.5, 1.0, 1.5))
    tuning = tune(
        problem,
        method=hyper.Implicit(hyper.CG(20, warm_start=True)),
        tolerance=hyper.ExponentialTolerance(1.0, 0.5),
        outer_optimizer=optax.sgd(1e-3),
        num_outer_steps=8,
    )
    for k, record in enumerate(tuning.history):
        assert record["inner_gradient_norm"] <= 0.5**k * (1 + 1e-9)
        assert record["residual"] * 0.5 <= 0.5**k  # relative to |v|, which is above 0.5 here
    steps = [r["inner_steps"] for r in tuning.history]
    assert len(set(steps)) > 1
    assert all(s % 2 == 0 for s in steps)
    capped = tune(problem, tolerance=hyper.QuadraticTolerance(1e-12), max_rounds=3, num_outer_steps=2)
    assert [r["inner_steps"] for r in capped.history] == [6, 6]
    count = jnp.asarray(4)
    assert float(hyper.QuadraticTolerance(2.0)(count)) == pytest.approx(2.0 / 25)


def test_patience_stops_and_the_best_is_kept():
    """A criterion that is lowest at the third record."""
    calls = []

    def evaluate(players):
        calls.append(None)
        return {"score": jnp.sum((players[0] - 0.0) ** 2)}

    class Away(nx.AbstractNested, nx.AbstractDeterministicProblem):
        def init(self, key):
            return jnp.asarray(-0.45), jnp.asarray(0.0)

        def outer_loss(self, hyperparameters, weights, sample):
            return -2.0 * weights

        def inner_loss(self, hyperparameters, weights, sample):
            return 0.5 * (weights - hyperparameters) ** 2

    settings = {"optimizer": optax.sgd(1.0), "outer_optimizer": optax.sgd(0.1), "num_inner_steps": 1}
    tuning = tune(Away(), **settings, num_outer_steps=20, evaluate=evaluate, criterion="score", patience=3,
                  method=hyper.Implicit(hyper.Exact(), residual=False))  # fmt: skip
    # -0.25, -0.05, 0.15, 0.35, 0.55: the second is the best, and three without a new best follow
    assert [round(r["score"], 4) for r in tuning.history] == [0.0625, 0.0025, 0.0225, 0.1225, 0.3025]
    assert tuning.best_record == 1
    assert float(tuning.best[0]) == pytest.approx(-0.05)
    assert len(calls) == 1  # compiled
    with pytest.raises(ValueError, match="`criterion` is 'accuracy', but a record holds"):
        tune(num_outer_steps=1, criterion="accuracy")


def test_each_hypergradient_has_one_sample_and_fresh_batches_their_own():
    """The noise of a batch cancels between the inner gradient and the mixed derivative only if the key is the same."""

    class Keyed(nx.AbstractNested):
        def init(self, key):
            return jnp.asarray(1.0), jnp.asarray(0.0)

        def outer_loss(self, hyperparameters, weights, sample):
            return weights

        def inner_loss(self, hyperparameters, weights, sample):
            scale = jax.random.uniform(sample, minval=1.0, maxval=100.0)
            return 0.5 * scale * (weights - hyperparameters) ** 2

    exact = hyper.Implicit(hyper.Exact(), residual=False)
    tuning = tune(Keyed(), method=exact, optimizer=optax.sgd(0.01), outer_optimizer=optax.sgd(1.0), num_outer_steps=3)
    assert float(tuning.players[0]) == pytest.approx(-2.0, rel=1e-9)  # H and M of one draw: a gradient of 1 each time
    fresh = hyper.Implicit(hyper.Neumann(2, 0.001, fresh_batches=True), residual=False)
    assert tune(Keyed(), method=fresh, optimizer=optax.sgd(0.01), num_outer_steps=1).num_steps == 1


def test_a_failure_is_a_value_or_an_error():
    settings = {"outer_optimizer": optax.sgd(1e300), "num_outer_steps": 4}
    with pytest.raises(nx.NumericalError, match=r"after \d successful outer steps"):
        tune(**settings)
    tuning = tune(**settings, throw=False)
    assert tuning.result == nx.RESULTS.nonfinite
    assert tuning.num_steps == len(tuning.history) < 4
    assert f"after {tuning.num_steps} successful outer steps" in tuning.message
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tuning.players))
    with pytest.warns(UserWarning, match=r"In 3 outer steps: .*largest safe alpha is 1\.33"):
        tuning = tune(method=hyper.Implicit(hyper.Neumann(30, 3.0), residual=False), num_outer_steps=3)
    assert [r["diverged"] for r in tuning.history] == [1, 1, 1]
    assert (tuning.result, tuning.message) == (nx.RESULTS.successful, "")


class Breaks(nx.AbstractNested, nx.AbstractDeterministicProblem):
    """Goes wrong where a hyperparameter, which grows by one in every outer step, reaches 3."""

    what: jax.Array  # which of the three, an array: one compilation serves them all

    def init(self, key):
        return {"rate": jnp.asarray(0.0), "other": jnp.asarray(1.0)}, jnp.asarray(0.5)

    def outer_loss(self, hyperparameters, weights, sample):
        bad = (hyperparameters["rate"] >= 3) & (self.what == 0)
        return -hyperparameters["rate"] + jax.lax.stop_gradient(jnp.where(bad, jnp.inf, 0.0) + 0 * weights)

    def inner_loss(self, hyperparameters, weights, sample):
        bad = (hyperparameters["rate"] >= 3) & (self.what == 1)
        curvature = jnp.where(bad, 1e200, 1.0)  # each step multiplies the weights by -1e199
        explode = (hyperparameters["rate"] >= 3) & (self.what == 2)
        other = hyperparameters["other"]
        root = jnp.sqrt(jnp.where(explode, 0.0 * other, 1.0 + 0.0 * other))  # finite, but its derivative need not be
        return 0.5 * curvature * weights**2 + 1e-3 * weights * (other + root)


@pytest.mark.parametrize("method", [hyper.Implicit(hyper.CG(2)), hyper.Implicit(hyper.Neumann(2, 0.1))])  # CG is silent
@pytest.mark.parametrize(
    ("what", "match"),
    [
        (0, "the outer loss is inf or NaN"),
        (1, "the inner steps led to inf or NaN"),
        (2, "the hyperparameters' 'other' became inf or NaN"),
    ],
)
def test_what_went_wrong_is_said(what, match, method, tmp_path):
    """Also where the weights stay finite, since failed inner steps leave the last finite ones."""
    settings = {"optimizer": optax.sgd(0.1), "outer_optimizer": optax.sgd(1.0), "method": method}
    settings |= {"num_outer_steps": 8, "num_inner_steps": 3, "record_every": 2, "run": tmp_path / "run"}
    with pytest.raises(nx.NumericalError, match=rf"after 3 successful outer steps {match}.*last good checkpoint"):
        tune(Breaks(jnp.array(what)), **settings)
    tuning = tune(Breaks(jnp.array(what)), **settings, resume=True, throw=False)
    assert tuning.result == nx.RESULTS.nonfinite
    assert (len(tuning.history), tuning.num_steps) == (1, 3)
    assert float(tuning.players[0]["rate"]) == 3.0
    assert all(record["outer_loss"] is not None for record in tuning.history)


def test_a_criterion_that_is_never_finite_is_told():
    with pytest.warns(UserWarning, match="No record had a finite `criterion`, 'score'"):
        tune(num_outer_steps=1, evaluate=lambda players: {"score": jnp.nan}, criterion="score")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupts, and its folder."""
    folder = tmp_path_factory.mktemp("tune") / "run"
    return hyper.tune(**settings(), run=folder), folder


def same(a, b):
    assert_identical((a.players, a.best, a.state), (b.players, b.best, b.state))
    drop = [[{**record, "seconds": 0} for record in x.history] for x in (a, b)]
    assert drop[0] == drop[1]


def test_a_run_goes_on_bit_for_bit(whole, tmp_path):
    """Stopped by Ctrl-C after a record, then by the user's own rule, and resumed, then with more steps."""

    def interrupt(record):
        if record["record"] == 2:
            raise KeyboardInterrupt

    half = {**settings(), "num_outer_steps": 10}
    with pytest.raises(KeyboardInterrupt):
        hyper.tune(**half, run=tmp_path / "run", callback=interrupt)
    part = hyper.tune(**half, run=tmp_path / "run", resume=True, callback=lambda record: record["record"] == 3)
    assert len(part.history) == 4
    assert len(hyper.tune(**half, run=tmp_path / "run", resume=True).history) == 5
    same(hyper.tune(**settings(), run=tmp_path / "run", resume=True), whole[0])
    files = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "tuning.png", "report.md"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files


class Shifted(Noisy):
    """The same in name and fields, but for what it computes."""

    def outer_loss(self, hyperparameters, weights, sample):
        return super().outer_loss(hyperparameters, weights + 1, sample)


START = (jnp.ones(3), jnp.ones(3))

# What another value of an argument would change, by argument; each must be noticed.
CHANGED: dict[str, Any] = {
    "problem": [Shifted()],
    "optimizer": [nx.optimizers.adam(0.5), optax.sgd(0.05), nx.optimizers.adam(0.05, b1=0.5)],
    "outer_optimizer": [optax.rmsprop(0.5), optax.adam(0.05)],
    "num_inner_steps": [4],
    "key": [jax.random.key(6)],
    "method": [hyper.Implicit(hyper.CG(3, warm_start=True)), hyper.Implicit(hyper.CG(2, warm_start=True), damping=0.1)],
    "players": [START],
    "state": [...],
    "tolerance": [hyper.ExponentialTolerance(1.0, 0.5)],
    "max_rounds": [7],
    "record_every": [1],
    "evaluate": [lambda players: {"first": players[0][0]}],
    "criterion": ["inner_loss"],
    "patience": [100],
    "config": [{"note": 1}],
    "labels": [{"problem": "mine"}],
}
HARMLESS = {
    "num_outer_steps": "fewer are refused, more go on: tested above",
    "run": "where it is kept",
    "resume": "how it starts",
    "checkpoint_seconds": "when it is kept",
    "progress": "what is shown",
    "callback": "who looks on",
    "throw": "how a failure is told",
}


def test_every_argument_is_compared_or_known_to_be_harmless():
    assert set(CHANGED) | set(HARMLESS) == set(inspect.signature(hyper.tune).parameters)


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, values in CHANGED.items() for i in range(len(values))])
def test_another_argument_is_refused_by_name(name, index, whole):
    result, folder = whole
    value = result.state if name == "state" else CHANGED[name][index]
    shown = {"config": "note", "labels": "problem"}.get(name, name)
    with pytest.raises(nx.learned.CheckpointError, match=rf"this run cannot go on, since `{shown}`"):
        hyper.tune(**{**settings(), name: value}, run=folder, resume=True)
    with pytest.raises(nx.learned.CheckpointError, match="no continuation"):
        hyper.tune(**{**settings(), "num_outer_steps": 10}, run=folder, resume=True)


def test_equal_arguments_made_anew_are_accepted(whole):
    same(hyper.tune(**settings(), run=whole[1], resume=True), whole[0])


def test_another_learning_rate_does_not_trace_again():
    traces = []

    class Counted(nx.AbstractNested, nx.AbstractDeterministicProblem):
        def init(self, key):
            return jnp.ones(()), jnp.ones(())

        def outer_loss(self, hyperparameters, weights, sample):
            return weights**2

        def inner_loss(self, hyperparameters, weights, sample):
            traces.append(None)
            return (weights - hyperparameters) ** 2

    problem, counts = Counted(), []
    for rate in (0.1, 0.2):
        method = hyper.Implicit(hyper.Neumann(3, rate), damping=rate, residual=False)
        tune(problem, optimizer=nx.optimizers.sgd(rate), outer_optimizer=nx.optimizers.sgd(rate), method=method)
        counts.append(len(traces))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_outer_steps": 0}, "`num_outer_steps` must be at least 1"),
        ({"num_inner_steps": -1}, "must be an integer of at least 0"),
        ({"num_inner_steps": 0}, "nothing trains the weights"),
        ({"record_every": 4}, "must divide the 6 outer steps"),
        ({"patience": 0}, "`patience`"),
        ({"max_rounds": 0}, "`max_rounds`"),
        ({"optimizer": nx.guards.LossGuard(optax.sgd(0.1), optax.sgd(0.1))}, "updates per step"),
        ({"outer_optimizer": nx.optimizers.Extragradient(0.1)}, "AbstractGradientOptimizer"),
        ({"players": (jnp.ones(3),)}, "two players"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        tune(**settings)
