"""Meta-training: it learns, it repeats itself, it goes on, and it refuses what it cannot do.

What every long run does with its folder is tested in `tests/core/test_run.py`, with runs that cost nothing."""

import inspect
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import measures, meta
from nestax.learned import CheckpointError

PROBLEM = nx.problems.Quadratic(jnp.array([1.0, 10.0]))
ADAM = optax.adam(1e-3)  # one object, so that all share their compilations
KEY = jax.random.key(0)
SCHEDULE = [(10, 3), (20, 2)]
VALIDATION = meta.Validation(every=2, num_runs=2, score=measures.TrailingLoss(window=2))


def small(seed=0, **kwargs):
    return nx.learned.RNNprop(hidden_sizes=(2,), projection_size=2, key=jax.random.key(seed), **kwargs)


SMALL = small()


def train(optimizer: nx.learned.AbstractLearnedOptimizer = SMALL, tasks: Any = PROBLEM, **kwargs: Any) -> Any:
    settings = {"key": KEY, "schedule": SCHEDULE, "unroll": 5, "meta_optimizer": ADAM, "validation": VALIDATION}
    return meta.train(optimizer, tasks, **(settings | kwargs))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupts, and its folder."""
    folder = tmp_path_factory.mktemp("train") / "run"
    return train(run=folder, config={"problem": "quadratic"}), folder


def weights(optimizer):
    return eqx.filter(optimizer, optimizer.meta_parameters())


def without_seconds(history):
    return [{**record, "seconds": 0} for record in history]


def same(a, b):
    assert eqx.tree_equal((a.optimizer, a.last), (b.optimizer, b.last))
    assert without_seconds(a.history) == without_seconds(b.history)


@pytest.mark.training
def test_training_makes_the_optimizer_better():
    """On fresh initial points, by a factor: an untrained network hardly moves."""
    optimizer = nx.learned.RNNprop(hidden_sizes=(4,), projection_size=4, key=jax.random.key(0))
    trained = train(optimizer, schedule=[(40, 60)], unroll=20, meta_optimizer=optax.adam(1e-2), validation=None)

    def final_loss(optimizer):
        keys = jax.random.split(jax.random.key(123), 10)
        return float(jax.vmap(lambda k: nx.solve(PROBLEM, optimizer, num_steps=40, key=k).losses[-1, 0])(keys).mean())

    assert final_loss(trained.optimizer) < 0.2 * final_loss(optimizer)


def test_hyperparameters_are_left_alone(whole):
    trained = whole[0].last
    assert eqx.tree_equal((trained.scale, trained.b1, trained.b2), (SMALL.scale, SMALL.b1, SMALL.b2))
    assert not eqx.tree_equal(trained.network, SMALL.network)


def test_same_key_same_result_and_other_key_another(whole):
    same(train(), whole[0])
    assert not eqx.tree_equal(train(key=jax.random.key(1)).last, whole[0].last)


def test_the_default_meta_optimizer_is_one_object(monkeypatch):
    """Two calls share their compilation."""
    traces = []

    class Counting(nx.AbstractDeterministicProblem):
        def init(self, key):
            return (jnp.ones(2),)

        def losses(self, players, sample):
            traces.append(1)
            return (jnp.sum(players[0] ** 2),)

    arguments: dict[str, Any] = {"schedule": [(5, 1)], "meta_optimizer": None, "validation": None}
    train(tasks=Counting(), **arguments)
    once = len(traces)
    assert once > 0
    train(tasks=Counting(), **{**arguments, "schedule": [(5, 2), (10, 2), (25, 1)]})  # of whatever horizon
    assert len(traces) == once


def test_one_meta_update_is_adam_on_the_meta_gradient():
    """Two estimators that must agree, by one step of plain descent."""
    settings = {"schedule": [(5, 1)], "meta_optimizer": optax.sgd(1.0), "validation": None}
    estimators = meta.TruncatedBackprop(), meta.CoordinateSum()
    first, second = (weights(train(estimator=e, **settings).optimizer) for e in estimators)
    moved = jax.tree.map(lambda a, b: a - b, weights(SMALL), first)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(moved)) > 0
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_validation_keeps_the_best(tmp_path):
    """A meta-optimizer that suddenly climbs ruins the optimizer; the best of the validations is returned."""
    absurd = optax.chain(optax.adam(1e-3), optax.scale_by_schedule(lambda n: jnp.where(jnp.asarray(n) < 4, 1.0, -1e5)))
    validation = meta.Validation(every=1, num_runs=3, score=measures.TrailingLoss(window=2))
    result = train(schedule=[(10, 6)], meta_optimizer=absurd, validation=validation, run=tmp_path / "run")
    scores = [record["validation"] for record in result.history]
    best = min(range(6), key=lambda i: np.inf if scores[i] is None else scores[i])
    assert best < 5
    assert not eqx.tree_equal(result.optimizer, result.last)
    assert eqx.tree_equal(nx.learned.load(tmp_path / "run" / "optimizer.safetensors"), result.optimizer)
    # the score is what anybody computes with the same keys: the returned optimizer beats the last one
    keys = jax.random.split(jax.random.key(5), 20)
    losses = [
        jax.vmap(lambda k, o=o: nx.solve(PROBLEM, o, num_steps=10, key=k, throw=False).losses[-2:, 0].mean())(keys)
        for o in (result.optimizer, result.last)
    ]
    assert float(losses[0].mean()) < float(losses[1].mean())


def test_the_run_folder_holds_everything(whole):
    result, folder = whole
    files = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "optimizer.safetensors", "report.md"}
    assert {path.name for path in folder.iterdir()} == files | {"training.png"}
    config = json.loads((folder / "config.json").read_text())
    assert config["versions"]["nestax"] == nx.__version__
    assert (config["stages"], config["arguments"]["unroll"]) == ([[10, 3], [20, 2]], 5)
    assert config["config"] == {"problem": "quadratic"}
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == result.history
    assert eqx.tree_equal(nx.learned.load(folder / "optimizer.safetensors"), result.optimizer)
    assert "5 epochs" in (folder / "report.md").read_text()


@pytest.mark.parametrize("last", [0, 2, 4])
def test_stopping_and_resuming_is_bit_identical(last, whole, tmp_path):
    part = train(run=tmp_path / "run", callback=lambda record: record["epoch"] == last)
    assert len(part.history) == last + 1
    same(train(run=tmp_path / "run", resume=True), whole[0])


def test_a_longer_schedule_goes_on(whole, tmp_path):
    short = train(run=tmp_path / "run", schedule=[(10, 2)])
    assert short.history[-1]["epoch"] == 1
    same(train(run=tmp_path / "run", resume=True), whole[0])
    with pytest.raises(CheckpointError, match="no continuation"):
        train(run=tmp_path / "run", resume=True, schedule=[(10, 9)])


def test_ctrl_c_leaves_a_resumable_run(whole, tmp_path):
    def interrupt(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run=tmp_path / "run", callback=interrupt)
    same(train(run=tmp_path / "run", resume=True), whole[0])


# What another value of an argument would change, by argument; each must be noticed. `config` and `labels` beside them.
CHANGED = {
    "optimizer": [small(seed=1), small(scale=0.5), nx.learned.L2ODM(hidden_sizes=(2,), key=KEY)],
    "tasks": [
        nx.problems.Quadratic(jnp.array([1.0, 11.0])),
        nx.problems.Rosenbrock(),
        meta.RandomScaling(nx.FixedProblem(PROBLEM), 1.0),
    ],
    "key": [jax.random.key(1), jax.random.key(0, impl="rbg")],
    "unroll": [10],
    "num_tasks": [2],
    "meta_loss": [meta.SumLog(), meta.Last()],
    "estimator": [meta.CoordinateSum(), meta.TruncatedBackprop()],
    "meta_optimizer": [optax.adam(1.0), optax.sgd(1e-3), optax.chain(optax.clip(1.0), ADAM)],
    "validation": [None, meta.Validation(every=3, num_runs=2, score=measures.TrailingLoss(window=2))],
    "curriculum": [meta.InstanceCurriculum()],
    "teaching": [meta.Imitation(nx.optimizers.adam(0.01)), meta.SelfImproving(nx.optimizers.adam(0.01))],
    "schedule": [
        meta.HorizonCurriculum((10, 20), period=2)
    ],  # another list is refused, a longer one goes on: see above
    "config": [{"problem": "other"}],
    "labels": [{"tasks": "mine"}],
}
HARMLESS = {
    "run": "where it is kept",
    "resume": "how it starts",
    "checkpoint_seconds": "when it is kept",
    "progress": "what is shown",
    "callback": "who looks on",
    "throw": "how a failure is told",
    "mesh": "where it is computed: the result is that of one device up to rounding",
}


def test_every_argument_is_compared_or_known_to_be_harmless():
    assert set(CHANGED) | set(HARMLESS) == set(inspect.signature(meta.train).parameters)


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, values in CHANGED.items() for i in range(len(values))])
def test_another_argument_is_refused_by_name(name, index, whole):
    result, folder = whole
    changed = {"config": {"problem": "quadratic"}, name: CHANGED[name][index]}
    if name == "curriculum":  # needs a meta-objective, which is compared before it
        with pytest.raises(CheckpointError, match=r"`meta_loss`|`curriculum`"):
            train(run=folder, resume=True, **changed, meta_loss=meta.Relative(measures.SquaredGradientNorm()))
        return
    shown = {"config": "problem", "labels": "tasks"}.get(name, name)
    with pytest.raises(CheckpointError, match=rf"this run cannot go on, since `{shown}`"):
        train(run=folder, resume=True, **changed)
    same(train(run=folder, resume=True, config={"problem": "quadratic"}), result)


def test_equal_arguments_made_anew_are_accepted(whole):
    result, folder = whole
    again: dict[str, Any] = {"tasks": nx.problems.Quadratic(jnp.array([1.0, 10.0])), "meta_optimizer": optax.adam(1e-3)}
    again |= {
        "validation": meta.Validation(every=2, num_runs=2, score=measures.TrailingLoss(window=2)),
        "estimator": meta.CoordinateSum(256),
    }
    same(train(small(), run=folder, resume=True, config={"problem": "quadratic"}, **again), result)


class Sometimes(nx.AbstractDeterministicProblem):
    """Has a finite loss only if a number drawn with the initial point is large enough."""

    threshold: jax.Array

    def init(self, key):
        return (jnp.ones(2).at[0].set(jax.random.uniform(key)),)

    def losses(self, players, sample):
        bad = jax.lax.stop_gradient(players[0][0]) < self.threshold
        return (jnp.sum(players[0][1] ** 2) * jnp.where(bad, jnp.nan, 1.0),)


def test_skipped_updates_are_counted_and_told():
    settings: dict[str, Any] = {"schedule": [(5, 8)], "validation": None}
    with pytest.warns(UserWarning, match=r"of 8 meta-updates \(\d+%\) were skipped"):
        result = train(tasks=Sometimes(jnp.asarray(0.5)), **settings)
    assert 0 < result.num_skipped < 8
    assert (result.result, result.message) == (nx.RESULTS.successful, "")
    with pytest.raises(nx.NumericalError, match="all 8 meta-updates so far were skipped"):
        train(tasks=Sometimes(jnp.asarray(2.0)), **settings)
    failed = train(tasks=Sometimes(jnp.asarray(2.0)), **{**settings, "schedule": [(5, 1_000)]}, throw=False)
    assert (len(failed.history), failed.num_skipped) == (10, 10)  # it does not go on for a thousand
    assert failed.history[0]["meta_loss"] is None
    assert failed.result == nx.RESULTS.nonfinite
    assert eqx.tree_equal(failed.optimizer, SMALL)


def test_non_finite_meta_parameters_are_a_failure(whole, tmp_path):
    """After seven updates: that is in the second stage, epoch 3, by its second update; with two updates to an epoch."""
    breaks = optax.chain(ADAM, optax.scale_by_schedule(lambda n: jnp.where(jnp.asarray(n) < 7, 1.0, jnp.nan)))
    arguments = {"meta_optimizer": breaks, "run": tmp_path / "run"}
    where = r"'network\.\S+' inf or NaN in epoch 3 \(stage 2, horizon 20\), by the update after steps 5 to 10"
    with pytest.raises(nx.NumericalError, match=where + r".*last good checkpoint is in .*run"):
        train(**arguments)
    assert not (tmp_path / "run" / "optimizer.safetensors").exists()
    result = train(**arguments, resume=True, throw=False)  # it goes on from the checkpoint, and ends there again
    assert result.result == nx.RESULTS.nonfinite
    assert "epoch 3" in result.message
    assert len(result.history) == 3
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(weights(result.last)))
    assert without_seconds(result.history) == without_seconds(whole[0].history[:3])


def test_bad_validations_are_told():
    ruined = meta.Validation(every=1, num_runs=1, tasks=nx.FixedProblem(Sometimes(jnp.asarray(2.0))))
    with pytest.warns(UserWarning, match="No validation score was finite"):
        assert train(schedule=[(5, 1)], validation=ruined).history[0]["validation"] is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"schedule": []}, "empty"),
        ({"schedule": [(10, 0)]}, "at least one epoch"),
        ({"schedule": [(0, 3)]}, "multiple of `unroll`"),
        ({"schedule": [(12, 3)]}, "multiple of `unroll`"),
        ({"schedule": [(10, 10**20)]}, "at most 2,147,483,647 epochs"),
        ({"schedule": [(10**20, 1)]}, "at most 2,147,483,647 steps"),
        ({"unroll": 0}, "`unroll` must be at least 1"),
        ({"num_tasks": 0}, "`num_tasks` must be at least 1"),
        ({"resume": True}, "name it, `run=...`"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        train(**settings)


def test_two_players_are_refused():
    with pytest.raises(ValueError, match="one player"):
        train(tasks=nx.problems.DiracGAN())
