"""Meta-training: it learns, it survives, it repeats itself, and it refuses what it cannot do."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import meta

PROBLEM = nx.problems.random_quadratic(jax.random.key(1), dim=4, condition_number=10.0)


def small(key=None, **kwargs):
    key = jax.random.key(0) if key is None else key
    return nx.learned.RNNprop(hidden_sizes=(4,), projection_size=3, key=key, **kwargs)


def train(optimizer=None, problem: nx.AbstractProblem = PROBLEM, **kwargs):
    settings = {"schedule": [(10, 4)], "unroll": 5} | kwargs
    return meta.train(small() if optimizer is None else optimizer, problem, **settings)


def weights(optimizer):
    return eqx.filter(optimizer, optimizer.meta_parameters())


def test_training_makes_the_optimizer_better(key):
    """On fresh initial points, by a factor: an untrained network hardly moves."""
    optimizer = nx.learned.RNNprop(key=key)
    trained = train(optimizer, schedule=[(40, 60)], unroll=20, meta_optimizer=optax.adam(3e-3)).optimizer

    def final_loss(optimizer):
        keys = jax.random.split(jax.random.key(123), 10)
        return float(jax.vmap(lambda k: nx.solve(PROBLEM, optimizer, num_steps=40, key=k).losses[-1, 0])(keys).mean())

    assert final_loss(trained) < 0.2 * final_loss(optimizer)


def test_hyperparameters_are_left_alone():
    optimizer = small()
    trained = train(optimizer).optimizer
    assert eqx.tree_equal((trained.scale, trained.b1, trained.b2), (optimizer.scale, optimizer.b1, optimizer.b2))
    assert not eqx.tree_equal(trained.network, optimizer.network)


def test_same_seed_same_result_and_other_seed_another():
    a, b, c = (train(seed=s).optimizer for s in (0, 0, 1))
    assert eqx.tree_equal(a, b)
    assert not eqx.tree_equal(a, c)


def test_one_meta_update_is_adam_on_the_meta_gradient():
    """Independent: a single truncation by hand."""
    optimizer = small()
    trained = train(optimizer, schedule=[(5, 1)], meta_optimizer=optax.sgd(1.0), estimator=meta.TruncatedBackprop())
    moved = jax.tree.map(lambda a, b: a - b, weights(optimizer), weights(trained.optimizer))
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(moved)) > 0
    exact = train(optimizer, schedule=[(5, 1)], meta_optimizer=optax.sgd(1.0), estimator=meta.CoordinateSum())
    for a, b in zip(jax.tree.leaves(weights(trained.optimizer)), jax.tree.leaves(weights(exact.optimizer))):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_one_compilation_serves_all_horizons_and_learning_rates():
    traces = []

    class Counting(nx.AbstractDeterministicProblem):
        def init(self, key):
            return (jnp.ones(3),)

        def losses(self, players, sample):
            traces.append(1)
            return (jnp.sum(players[0] ** 2),)

    train(problem=Counting(), schedule=[(5, 1)])
    once = len(traces)
    assert once > 0
    traces.clear()
    train(problem=Counting(), schedule=[(5, 2), (10, 2), (25, 1)])
    assert len(traces) <= once


def test_validation_keeps_the_best(tmp_path):
    """A meta-optimizer with an absurd step ruins the optimizer; the best of the validations is returned."""
    result = train(
        schedule=[(10, 6)],
        meta_optimizer=optax.chain(
            optax.adam(1e-3), optax.scale_by_schedule(lambda n: jnp.where(jnp.asarray(n) < 4, 1.0, 1e5))
        ),
        validation=meta.Validation(every=1, num_runs=3, score=nx.measures.TrailingLoss(2)),
        run=tmp_path / "run",
    )
    scores = [r["validation"] for r in result.history]
    best = min(range(6), key=lambda i: np.inf if scores[i] is None else scores[i])
    assert best < 5
    header = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert header["best_epoch"] == best
    assert not eqx.tree_equal(result.optimizer, result.last)
    assert eqx.tree_equal(nx.learned.load(tmp_path / "run" / "optimizer.safetensors"), result.optimizer)
    # the score is what anybody computes with the same keys: the returned optimizer beats the last one
    keys = jax.random.split(jax.random.key(5), 20)
    losses = [
        jax.vmap(lambda k, o=o: nx.solve(PROBLEM, o, num_steps=10, key=k, throw=False).losses[-2:, 0].mean())(keys)
        for o in (result.optimizer, result.last)
    ]
    assert float(losses[0].mean()) < float(losses[1].mean())


def test_a_non_finite_meta_gradient_is_skipped_and_counted():
    class Broken(nx.AbstractDeterministicProblem):
        def init(self, key):
            return (jnp.ones(3),)

        def losses(self, players, sample):
            return (jnp.sum(players[0]) * jnp.nan,)

    optimizer = small()
    result = train(optimizer, Broken())
    assert result.num_skipped == 8
    assert result.history[0]["meta_loss"] is None
    assert eqx.tree_equal(result.optimizer, optimizer)


def test_the_run_folder_holds_everything(tmp_path):
    result = train(run=tmp_path / "run", config={"problem": "quadratic"})
    names = {p.name for p in (tmp_path / "run").iterdir()}
    checkpoint = {"checkpoint.safetensors", "checkpoint.json"}
    assert names == checkpoint | {"config.json", "metrics.jsonl", "optimizer.safetensors", "report.md", "training.png"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["version"] == nx.__version__
    assert (config["seed"], config["schedule"], config["unroll"], config["problem"]) == (0, [[10, 4]], 5, "quadratic")
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history


@pytest.mark.parametrize("stops_after", [0, 2, 5, 7])
def test_stopping_and_resuming_is_bit_identical(stops_after, tmp_path):
    settings = {
        "schedule": [(10, 5), (20, 3)],
        "validation": meta.Validation(every=3, num_runs=2, score=nx.measures.TrailingLoss(2)),
    }
    whole = train(**settings, run=tmp_path / "whole")
    part = train(**settings, run=tmp_path / "parts", stop=lambda epoch: epoch == stops_after)
    assert len(part.history) == stops_after + 1
    resumed = train(**settings, run=tmp_path / "parts", resume=True)
    assert eqx.tree_equal(resumed.optimizer, whole.optimizer)
    assert eqx.tree_equal(resumed.last, whole.last)
    for a, b in zip(resumed.history, whole.history, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


def run_child(folder, pause):
    # All children share what they compile: they differ in when they die, not in what they run.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache")}
    environment |= {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, str(Path(__file__).parent / "killed.py"), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_training_resumes_bit_identically(tmp_path):
    """A real SIGKILL at a random instant, twice, then to the end; against a run that nobody touched."""
    with run_child(tmp_path / "whole", 0.0) as child:
        assert child.wait(timeout=300) == 0
    for _ in range(2):
        with run_child(tmp_path / "killed", 0.02) as child:
            assert child.stdout is not None
            for _ in range(random.randint(1, 4)):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=60)
    with run_child(tmp_path / "killed", 0.0) as child:
        assert child.wait(timeout=300) == 0
    for name in ("optimizer.safetensors", "checkpoint.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_ctrl_c_leaves_a_resumable_run(tmp_path):
    def interrupt(epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return False

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(run=tmp_path / "run", stop=interrupt)
    resumed = train(run=tmp_path / "run", resume=True)
    assert eqx.tree_equal(resumed.optimizer, whole.optimizer)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    """The limit on file size makes a real write fail, as a full disk does; the run then resumes to the same end."""
    settings = {"schedule": [(10, 5)], "checkpoint_seconds": 0.0}
    whole = train(**settings)
    train(**settings, run=tmp_path / "run", stop=lambda epoch: epoch == 1)
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, old[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            train(**settings, run=tmp_path / "run", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert eqx.tree_equal(train(**settings, run=tmp_path / "run", resume=True).optimizer, whole.optimizer)


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(run=tmp_path / "run")
    with pytest.raises(ValueError, match="resume=True"):
        train(run=tmp_path / "run")
    with pytest.raises(nx.learned.CheckpointError, match="field 'unroll'"):
        train(run=tmp_path / "run", resume=True, unroll=2)
    with pytest.raises(nx.learned.CheckpointError, match="field 'optimizer'"):
        train(small(scale=0.5), run=tmp_path / "run", resume=True)


@pytest.mark.parametrize("keep", [0, 100, 3_000])
def test_a_truncated_checkpoint_is_refused(keep, tmp_path):
    train(run=tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(nx.learned.CheckpointError, match=r"checkpoint\.safetensors"):
        train(run=tmp_path / "run", resume=True)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    train(run=tmp_path / "run")
    nx.learned.save(tmp_path / "run" / "checkpoint.safetensors", small())
    with pytest.raises(nx.learned.CheckpointError, match="field 'kind'"):
        train(run=tmp_path / "run", resume=True)


def test_a_damaged_metrics_line_is_refused_by_number(tmp_path):
    train(run=tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"epoch": 1', "{epoch: 1"))
    with pytest.raises(nx.learned.CheckpointError, match="line 2"):
        train(run=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"schedule": []}, "empty"),
        ({"schedule": [(10, 0)]}, "at least one epoch"),
        ({"schedule": [(0, 3)]}, "multiple of `unroll`"),
        ({"schedule": [(12, 3)]}, "multiple of `unroll`"),
        ({"unroll": 0}, "`unroll` must be at least 1"),
        ({"num_tasks": 0}, "`num_tasks` must be at least 1"),
    ],
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        train(**settings)


def test_two_players_are_refused():
    class Game(nx.AbstractDeterministicProblem):
        def init(self, key):
            return (jnp.ones(2), jnp.ones(2))

        def losses(self, players, sample):
            value = jnp.sum(players[0] * players[1])
            return value, -value

    with pytest.raises(ValueError, match="one player"):
        train(problem=Game())
