"""Run in a process of its own: everything that devices share, on eight of them against one. Prints JSON."""

import contextlib
import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nestax as nx
from nestax._mesh import replicate, resolve
from nestax.meta._trainer import Trainer


def difference(a, b):
    """The largest difference of any array, relative to its largest entry; failures must be in the same places."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.nan_to_num(np.asarray(x, np.float64)), np.nan_to_num(np.asarray(y, np.float64))
        worst = max(worst, float(np.max(np.abs(x - y)) / (1e-30 + np.max(np.abs(y)))))
    return worst


def tasks(key):
    return nx.problems.random_quadratic(key, dim=6, condition_number=10.0)


OPTIMIZER = nx.learned.RNNprop((4,), 4, key=jax.random.key(0))
TRAINING = {
    "unroll": 2,
    "num_tasks": 8,
    "key": jax.random.key(1),
    "validation": nx.meta.Validation(every=1, num_runs=5),
}


def train(mesh, schedule, **more):
    return nx.meta.train(OPTIMIZER, tasks, mesh=mesh, schedule=schedule, **(TRAINING | more))


def weights(training):
    return training.optimizer.network


def training(folder):
    one, again = train(1, [(4, 6)]), train(8, [(4, 2)])
    for epochs, mesh in ((2, 8), (4, 2), (6, jax.make_mesh((4, 2), ("x", "y")))):  # the devices change on the way
        shared = train(mesh, [(4, epochs)], run=folder, resume=epochs > 2)
        if epochs == 2:
            yield "equal devices, equal bits", difference(weights(shared), weights(again)), 0
            yield "by default all devices", difference(weights(train(None, [(4, 2)])), weights(again)), 0
    yield "training, resumed on other devices", difference(weights(shared), weights(one)), 1e-5
    scores = [[r["validation"] for r in t.history] for t in (shared, one)]
    yield "validation", difference(*scores), 1e-5


def curricula():
    """What looks at all tasks at once, or draws for each of them."""
    games = nx.FromSampler(nx.problems.RotatedSaddle.random)
    twin = nx.learned.preset("twin", key=jax.random.key(0))
    settings = {"meta_loss": nx.meta.Relative(nx.measures.SquaredGradientNorm()), "schedule": [(2, 2)], "unroll": 2}
    curriculum = nx.meta.InstanceCurriculum(start=0.4, growth=0.2)
    trained = [
        nx.meta.train(
            twin, games, num_tasks=8, key=jax.random.key(1), curriculum=curriculum, mesh=mesh, **settings
        ).optimizer
        for mesh in (8, 1)
    ]
    yield "curriculum", difference(*(jax.tree.leaves(t) for t in trained)), 1e-4


def evaluations():
    contestants = {"adam": nx.optimizers.adam(0.1)}
    for mesh in (8, None):
        evaluated = [
            nx.evaluation.evaluate(tasks, contestants, num_steps=4, num_problems=n, key=jax.random.key(0), mesh=m)
            for m, n in ((mesh, 11 if mesh else 8), (1, 11 if mesh else 8))
        ]
        losses = [e.curves["adam"].losses for e in evaluated]
        yield f"evaluate, mesh {mesh}", difference(*losses), 1e-6
    grid = {"learning_rate": (0.01, 0.1, 1.0), "momentum": (0.0, 0.5), "nesterov": (False,)}
    tuned = [
        nx.evaluation.tune(tasks, optax_sgd, grid, num_steps=4, num_problems=3, key=jax.random.key(0), mesh=m)
        for m in (8, 1)
    ]
    yield "tune", difference(*(t.scores for t in tuned)), 1e-6
    assert tuned[0].points == tuned[1].points
    assert tuned[0].best() == tuned[1].best()
    games, method = nx.FromSampler(nx.problems.RotatedSaddle.random), nx.optimizers.OptimisticGradient(0.1)
    runs = [
        nx.evaluation.run_games(games, method, num_steps=3, num_problems=3, num_starts=2, key=jax.random.key(1), mesh=m)
        for m in (8, 1)
    ]
    yield "game runs", difference(*(dataclasses.astuple(r)[:5] for r in runs)), 1e-6


def optax_sgd(learning_rate, momentum, nesterov):
    return nx.optimizers.Optax(optax.sgd, learning_rate=learning_rate, momentum=momentum, nesterov=nesterov)


def spreading():
    game = nx.problems.mixed_dilemma()

    def exponent(players):
        return nx.dynamics.lyapunov_exponents(game, nx.optimizers.sgd(0.1), players, num_steps=3).exponents[0]

    starts = jax.vmap(game.init)(jax.random.split(jax.random.key(0), 8))
    shared = nx.spread(exponent, starts)
    yield "exponents", difference(shared, nx.spread(exponent, starts, mesh=1)), 1e-6
    yield "exponents are where they were computed", 8 - len(shared.sharding.device_set), 0
    fewer = jax.tree.map(lambda x: x[:5], starts)
    yield "exponents of five", difference(nx.spread(exponent, fewer, mesh=8), shared[:5]), 1e-6


def one_reduction():
    """A meta-update holds one all-reduce, and gathers nothing."""
    family, devices = nx.as_family(tasks), resolve(8, 8)
    estimators = (nx.meta.CoordinateSum(None), nx.meta.TruncatedBackprop())
    for estimator in estimators:
        trainer = Trainer.of(OPTIMIZER, family, 2, 8, nx.meta.Sum(), estimator, optax.adam(1e-3), None, mesh=devices)
        trainer, key = replicate(devices, (trainer, jax.random.key(0)))
        state = trainer.start(trainer.initial, key, 0, 4)
        lowered = Trainer._advance.lower(trainer, trainer.initial, state, key, jnp.asarray(0), jnp.asarray(2))
        text = lowered.compile().compiled.as_text()
        others = sum(text.count(f" {name}(") for name in ("all-gather", "all-to-all", "collective-permute"))
        yield f"all-reduces of {type(estimator).__name__}", text.count(" all-reduce(") - 1, 0
        yield f"gathers of {type(estimator).__name__}", others, 0


def refusals():
    for name, call in {
        "indivisible": lambda: train(3, [(4, 1)]),
        "too many": lambda: train(16, [(4, 1)]),
    }.items():
        with contextlib.suppress(ValueError):
            call()
            yield f"refused: {name}", 1, 0


if __name__ == "__main__":
    parts = (training(sys.argv[1]), curricula(), evaluations(), spreading(), one_reduction(), refusals())
    print(json.dumps([found for part in parts for found in part]))
