"""Run in a process of its own: everything that devices share, on eight of them against one. Prints JSON."""

import contextlib
import dataclasses
import json
import math
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import nestax as nx
from nestax._mesh import replicate, resolve
from nestax.meta._trainer import Trainer
from tests import compiling


def difference(a, b):
    """The largest difference of any array, relative to its largest entry; NaN and zeros alone are no agreement."""
    worst = 0.0 if max(np.max(np.abs(np.nan_to_num(np.asarray(y)))) for y in jax.tree.leaves(b)) > 0 else math.inf
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
    four = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4])
    for epochs, mesh in ((2, 8), (6, four)):  # the devices change on the way
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


class Ridge(nx.AbstractNested):
    """A penalty per feature; both losses are means over the examples of a batch."""

    def init(self, key):
        return jnp.zeros(3), jnp.zeros(3)

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.mean((sample[0] @ weights - sample[1]) ** 2)

    def inner_loss(self, hyperparameters, weights, sample):
        return jnp.mean((sample[0] @ weights - 2 * sample[1]) ** 2) + jnp.sum(jnp.exp(hyperparameters) * weights**2)


def hypergradients():
    x = jax.random.normal(jax.random.key(0), (3, 16, 3))
    players, batch = (jnp.zeros(3), jnp.full(3, 1.5)), (x[0], x[0].sum(axis=1))
    several = nx.hyper.Batches(batch, (x, x.sum(axis=2)))
    series = nx.hyper.Implicit(nx.hyper.Neumann(3, 0.05, fresh_batches=True), residual=False)
    for name, batches, method in (("one batch", batch, None), ("several", several, series)):
        found = [
            nx.hyper.hypergradient(Ridge(), players, batches, method, mesh=mesh, throw=False).gradient
            for mesh in (8, None, 1)
        ]
        yield f"hypergradient, {name}", difference(found[:2], [found[2]] * 2), 1e-5
        yield f"hypergradient, {name}, on all devices", 8 - len(found[0].sharding.device_set), 0


def pictures():
    plane = nx.dynamics.Plane.of_scalars(-3.0, 3.0, resolution=3)
    maps = [nx.dynamics.heat_map(height, plane, batch_size=4, mesh=mesh).values for mesh in (8, 1)]
    yield "heat map of nine points", difference(*maps), 1e-6


def height(players):
    return jnp.sin(players[0]) * players[1]


SHAPES = {"w": (16, 24), "b": (8,), "c": (), "d": (2, 4, 8)}
SPECS = {"w": P("x", "y"), "b": P(("x", "y")), "c": P(), "d": P(None, "x", "y")}


class Waves(nx.AbstractDeterministicProblem):
    """Every coordinate by itself, in arrays of the given shapes."""

    shapes: tuple = eqx.field(static=True)

    def init(self, key):
        return ({name: jax.random.normal(jax.random.fold_in(key, i), s) for i, (name, s) in enumerate(self.shapes)},)

    def losses(self, players, sample):
        return (sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(players)),)


def sharded_parameters():
    """Learned optimizers and guards on sharded parameters: same updates, and states that lie as the parameters do."""
    problem, key = Waves(tuple(SHAPES.items())), jax.random.key(0)
    (params,) = problem.init(key)
    for flat in (OPTIMIZER, nx.learned.L2ODM((4,), key=key)):
        optimizer, name = nx.learned.Leafwise(flat), type(flat).__name__
        (expected,) = nx.solve(problem, flat, num_steps=3, key=key, players=(params,)).players
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
            placed = {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in params.items()}
            inside = jax.jit(lambda p, optimizer=optimizer: optimizer.init_update(p))(placed)
            solution = nx.solve(problem, optimizer, num_steps=3, key=key, players=(placed,))
            yield f"{name}, sharded, {kind}", difference(solution.players[0], expected), 1e-5
            for state in (inside, solution.state):
                wrong = [
                    1
                    for x, part in zip(jax.tree.leaves(placed), state, strict=True)
                    for y in jax.tree.leaves(part)
                    if y.ndim and x.ndim and tuple(y.sharding.spec)[-len(x.sharding.spec) :] != tuple(x.sharding.spec)
                ]
                yield f"{name}, states elsewhere, {kind}", sum(wrong), 0
    guard = nx.guards.LossGuard(optimizer, nx.optimizers.momentum(0.1))
    (expected,) = nx.solve(problem, guard, num_steps=10, key=key, players=(params,)).players
    (guarded,) = nx.solve(problem, guard, num_steps=10, key=key, players=(placed,)).players
    yield "guard, sharded", difference(guarded, expected), 1e-5


def hundred_million_coordinates():
    """The compiled step, not run: the largest array is the gates of a layer, of one device's share."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    arrays = {"w": ((8_192, 8_192), P("x", None)), "v": ((4_096, 4_096), P(None, "x")), "b": ((16_777_216,), P("x"))}
    problem = Waves(tuple((k, shape) for k, (shape, _) in arrays.items()))
    like = ({k: _shape(s, NamedSharding(mesh, spec)) for k, (s, spec) in arrays.items()},)
    share = math.prod(arrays["w"][0]) // 8
    learned = nx.learned.Leafwise(nx.learned.RNNprop(key=jax.random.key(0)))
    for name, optimizer in (("step", learned), ("guarded step", nx.guards.LossGuard(learned, nx.optimizers.sgd(0.1)))):
        start = jax.jit(lambda p, o=optimizer: o.init(problem, p, jax.random.key(0))).lower(like).compile()
        shapes = jax.eval_shape(lambda p, o=optimizer: o.init(problem, p, jax.random.key(0)), like)
        state = jax.tree.map(lambda x, s: _shape(x.shape, s, x.dtype), shapes, start.output_shardings)
        step = jax.jit(lambda p, s, o=optimizer: o.step(problem, p, s, None)).lower(like, state).compile()
        for text in map(str, (start.as_text(), step.as_text())):
            sizes = [math.prod(map(int, d.split(","))) for d in re.findall(r"[a-z]+\d+\[(\d[\d,]*)\]", text)]
            yield f"{name}: numbers in an array over those of 80 gates", max(sizes) / (80 * share), 1
            moved = sum(text.count(f" {kind}(") for kind in ("all-gather", "all-to-all", "collective-permute"))
            yield f"{name}: gathers", moved, 0


def _shape(shape, sharding, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def refusals():
    for name, call in {
        "indivisible": lambda: train(3, [(4, 1)]),
        "too many": lambda: train(16, [(4, 1)]),
        "examples": lambda: nx.hyper.hypergradient(
            Ridge(), (jnp.zeros(3), jnp.ones(3)), (jnp.ones((5, 3)), jnp.ones(5)), mesh=8
        ),
    }.items():
        with contextlib.suppress(ValueError):
            call()
            yield f"refused: {name}", 1, 0


if __name__ == "__main__":
    compiling.share_contexts()
    compiling.collect_less_garbage()
    parts = (training(sys.argv[1]), curricula(), evaluations(), spreading(), one_reduction())
    parts += (hypergradients(), pictures(), sharded_parameters(), hundred_million_coordinates(), refusals())
    print(json.dumps([found for part in parts for found in part]))
