"""Everything public that takes arguments, with one valid call of each: found by enumeration, so nothing is left out.

What is missing here fails a test. Valid arguments go by the name of the parameter, and where one name means several
things, by `callable.parameter`.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nestax as nx

PACKAGES = [name for name in nx._PACKAGES if name != "recipes"]

# What the library returns, keeps or passes between its own parts: nobody builds these by hand.
PRODUCED = {
    "Cost",
    "NestedSample",
    "RESULTS",
    "Rollout",
    "Solution",
    "SolveRecord",
    "StepInfo",
    "catalogue.NamedNested",
    "catalogue.SeesawRange",
    "dynamics.Diagnosis",
    "dynamics.Directions",
    "dynamics.Game",
    "dynamics.HeatMap",
    "dynamics.JacobianOperator",
    "dynamics.LyapunovExponents",
    "dynamics.PredictedRate",
    "dynamics.Spectrum",
    "dynamics.Start",
    "dynamics.Suggestion",
    "dynamics.Suggestions",
    "dynamics.Tree",
    "evaluation.AdaptationComparison",
    "evaluation.AdaptationRun",
    "evaluation.Curve",
    "evaluation.Evaluation",
    "evaluation.GameRuns",
    "evaluation.GridSearch",
    "evaluation.Summary",
    "evaluation.Tunable",  # of the catalogue; `tune` checks its parts
    "evaluation.Tuning",
    "guards.Decision",
    "guards.EnergyDecision",
    "guards.EnergyGuardState",
    "guards.NotTaken",
    "guards.ResidualDecision",
    "hyper.Hypergradient",
    "hyper.HypergradientCheck",
    "hyper.HypergradientInfo",
    "hyper.HypernetworkSample",
    "hyper.Located",
    "hyper.Operator",
    "hyper.OuterStep",
    "hyper.Search",
    "hyper.SearchTrial",
    "hyper.SolverInfo",
    "hyper.Tuning",
    "hyper.TuningState",
    "hyper.solver_info",
    "hyperparameters.Batch",
    "learned.CoordinatewiseLSTM",
    "learned.MixingNetwork",
    "learned.Preset",
    "learned.TwinNetwork",
    "loggers.call",
    "loggers.check",
    "measures.Proportion",
    "measures.SuccessRates",
    "measures.Trajectory",
    "measures.follow",
    "measures.record",
    "meta.Adaptation",
    "meta.Batch",
    "meta.Epoch",
    "meta.Lesson",
    "meta.MetaTraining",
    "meta.Truncation",
    "problems.ModeCoverage",
}


class Quadratic(nx.AbstractDeterministicProblem):
    """One player, two coordinates: what every valid call runs on."""

    def init(self, key):
        return (jnp.ones(2),)

    def losses(self, players, sample):
        return (jnp.sum(players[0] ** 2),)


class Nested(nx.AbstractNested, nx.AbstractDeterministicProblem):
    def init(self, key):
        return jnp.ones(2), jnp.ones(2)

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.sum((weights - 3) ** 2)

    def inner_loss(self, hyperparameters, weights, sample):
        return jnp.sum((weights - hyperparameters) ** 2)


def names() -> list[str]:
    """Every public callable, as `package.name`, or `name` in the core."""
    found = []
    for package in [*PACKAGES, ""]:
        module = getattr(nx, package) if package else nx
        for name, value in vars(module).items():
            home = getattr(value, "__module__", None) or ""
            if name.startswith("_") or not callable(value) or not home.startswith(f"nestax.{package}".rstrip(".")):
                continue
            if inspect.isclass(value):
                if inspect.isabstract(value) or name.startswith("Abstract") or issubclass(value, BaseException):
                    continue
                if typing.is_typeddict(value) or getattr(value, "_is_protocol", False):
                    continue
            found.append(f"{package}.{name}" if package else name)
    return [name for name in sorted(found) if name not in PRODUCED]


def target(name: str) -> Callable[..., Any]:
    package, _, attribute = name.rpartition(".")
    return getattr(getattr(nx, package) if package else nx, attribute)


def parameters(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(target(name)).parameters.values())


def untouched(key):
    return eqx.nn.MLP(2, 2, 2, depth=1, key=key)


def squares(params):
    return jnp.sum(params**2)


def batches(seed):
    """For `FromHost`."""
    yield jnp.ones(2) * seed


def descent_rate(point, values):
    return jnp.abs(1 - point[0].astype(values.dtype) * values)


@functools.cache
def valid() -> dict[str, Any]:
    """A valid value by the name of a parameter."""
    key = jax.random.key(0)
    circles = nx.data.circles().take(slice(8))
    sgd = nx.optimizers.sgd(0.1)
    game, point = nx.problems.DiracGAN(), (jnp.array(0.1), jnp.array(0.1))
    step = nx.OptimizerStep(Quadratic(), sgd)
    corpus = nx.data.Corpus(jnp.arange(20, dtype=jnp.int32) % 4, ("a", "b", "c", "d"), "toy")
    images = nx.data.digits().take(slice(8))
    return {
        "key": key,
        "problem": Quadratic(),
        "problems": jax.vmap(nx.problems.RotatedSaddle.random)(jax.random.split(key, 2)),
        "family": Quadratic(),
        "tasks": Quadratic(),
        "players": (jnp.ones(2),),
        "optimizer": sgd,
        "optimizers": sgd,
        "proposal": sgd,
        "fallback": nx.optimizers.momentum(0.1),
        "outer_optimizer": sgd,
        "learning_rate": 0.1,
        "learning_rates": (0.1, 0.2),
        "opponent_rate": 0.1,
        "regularization": 0.1,
        "step_size": 0.1,
        "alpha": 0.1,
        "num_steps": 2,
        "num_outer_steps": 1,
        "num_inner_steps": 1,
        "num_dims": 1,
        "num": 2,
        "num_terms": 2,
        "num_evaluations": 2,
        "every": 1,
        "dim": 2,
        "name": "quadratic",
        "step": step,
        "carry": ((jnp.ones(2),), sgd.init(Quadratic(), (jnp.ones(2),), key)),
        "xs": None,
        "sample": None,
        "tangent": (jnp.ones(2),),
        "cotangent": (jnp.ones(2),),
        "measure": nx.measures.SquaredGradientNorm(),
        "train": circles,
        "valid": circles,
        "dataset": images,
        "hyperparameters": nx.hyperparameters.WeightDecay(),
        "values": jnp.zeros(()),
        "weights": jnp.ones(2),
        "site": "layer0",
        "sites": "layer0",
        "architecture": nx.networks.MLP((2,)),
        "make": untouched,
        "init": lambda key, inputs: {"w": jnp.ones((2, 2))},
        "apply": lambda params, inputs: inputs @ params["w"],
        "blocks": (1,),
        "widths": (4,),
        "a": 1.0,
        "b": 1.0,
        "r": 3.5,
        "gamma": jnp.array([0.5]),
        "gamma_max": 1.0,
        "matrix": jnp.eye(2),
        "own": jnp.eye(2),
        "other": jnp.eye(2),
        "hessian_x": jnp.eye(2),
        "hessian_y": jnp.eye(2),
        "coupling": jnp.eye(2),
        "spectrum": jnp.array([1.0, 2.0]),
        "inputs": circles.inputs,
        "labels": circles.labels,
        "targets": circles.inputs[:, 0],
        "tokens": corpus.tokens,
        "vocabulary": corpus.vocabulary,
        "model": nx.networks.LSTMLanguageModel(4, 3),
        "loss": squares,
        "params": jnp.ones(2),
        "terms": [jnp.ones(())],
        "first": jnp.eye(2),
        "second": jnp.eye(2),
        "weight": 0.5,
        "probabilities": jnp.full((3, 2), 0.5),
        "images": jnp.ones((1, 4, 4, 1)),
        "stride": 1,
        "size": 2,
        "shape": (2, 2),
        "init_scale": 0.1,
        "axes": (np.linspace(0.1, 1.0, 10),),
        "bounds": ((0.0, 2.0),),
        "eigenvalues": jnp.array([1.0 + 0.5j, 1.0 - 0.5j]),
        "frequencies": jnp.array([0.5]),
        "extrapolation": 0.1,
        "momentum": 0.1,
        "momenta": (0.0, 0.9),
        "gradient_weights": jnp.ones(2),
        "output_weights": jnp.ones(2),
        "coefficients": jnp.array([1.0, 0.5, 0.2]),
        "function": squares,
        "operator": nx.dynamics.game_jacobian(game, point, None),
        "plane": nx.dynamics.Plane((jnp.zeros(2),), (jnp.array([1.0, 0.0]),), (jnp.array([0.0, 1.0]),), resolution=2),
        "origin": (jnp.zeros(2),),
        "evaluation": None,
        "path": "file",
        "folder": "folder",
        "filename": "file",
        "sha256": "0" * 64,
        "urls": (),
        "points": jnp.zeros((3, 2)),
        "reference": None,
        "grid": {"learning_rate": (0.1, 0.2)},
        "horizon": 10,
        "rank": 1,
        "prox": lambda x, step: x,
        "outer": None,
        "inner": None,
        "costs": jnp.ones((3, 2)),
        "times": jnp.zeros(2, jnp.int32),
        "tolerance": 0.1,
        "distances": jnp.ones((4, 2)),
        "part": 0.5,
        "time_scale": 10.0,
        "network": nx.networks.MLP((2,)),
        "offset": (jnp.ones(2),),
        "directions": (jnp.ones((1, 2)),),
        "num_directions": 1,
        "callback": None,
        "record": {},
        "text": corpus,
        "hidden": (2,),
        "rng": None,
        "gain": 1.0,
        "z": jnp.ones((2, 2)),
        "families": (Quadratic(), Quadratic()),
        "estimator": nx.meta.TruncatedBackprop(),
        "num_epochs": 2,
        "num_trials": 2,
        "teachers": (sgd,),
        "adaptation": Quadratic(),
        "test": Quadratic(),
        "sigma": 1.0,
        "methods": {},
        "teacher": sgd,
    }


def fail(name: str, parameter: str) -> Any:
    raise LookupError(f"tests/fuzz/targets.py has no valid value for `{parameter}` of `{name}`: add one to `valid`.")


@functools.cache
def special() -> dict[str, Any]:
    """Valid values where a name means something else."""
    pair = (jnp.ones(2), jnp.ones(2))
    scalars = (jnp.array(0.0), jnp.array(0.0))
    corpus = valid()["text"]
    decay, regression = nx.hyperparameters.WeightDecay("all"), nx.data.Regression(jnp.ones((4, 2)), jnp.ones(4), "toy")
    key, sgd = jax.random.key(0), nx.optimizers.sgd(0.1)
    linear = eqx.nn.Linear(2, 3, key=key)
    evaluation = nx.evaluation.evaluate(Quadratic(), {"sgd": optax.sgd(0.1)}, num_steps=2, num_seeds=1, key=key)
    return {
        "InnerProblem.problem": Nested(),
        "InnerProblem.hyperparameters": jnp.ones(2),
        "hyper.hypergradient.problem": Nested(),
        "hyper.hypergradient.players": pair,
        "hyper.tune.problem": Nested(),
        "hyper.HypernetworkProblem.problem": Nested(),
        "hyper.HypernetworkProblem.response": nx.hyper.LinearResponse(),
        "hyper.Among.points": jnp.ones((3, 2)),
        "hyper.RandomSearch.sampling": nx.hyper.Uniform(0.0, 1.0),
        "hyper.OptunaSearch.low": 0.0,
        "hyper.OptunaSearch.high": 1.0,
        "hyper.search.problem": Nested(),
        "hyper.search.proposer": nx.hyper.RandomSearch(nx.hyper.Uniform(0.0, 1.0)),
        "hyper.Uniform.low": 0.0,
        "hyper.Uniform.high": 1.0,
        "hyper.check_hypergradient.problem": Nested(),
        "hyper.check_hypergradient.players": pair,
        "hyper.best_response.problem": Nested(),
        "hyper.best_response.hyperparameters": jnp.ones(2),
        "hyper.best_response.weights": jnp.ones(2),
        "hyperparameters.Fixed.family": decay,
        "problems.NestedRegression.train": regression,
        "problems.NestedRegression.valid": regression,
        "dynamics.minimize_rate.rate": descent_rate,
        "measures.median_and_ninety.values": jnp.ones(4),
        "problems.NestedLanguageModel.train": corpus,
        "problems.NestedLanguageModel.valid": corpus,
        "problems.NestedLanguageModel.hyperparameters": decay,
        "problems.FromHost.batches": batches,
        "hyper.SelfTuningProblem.form": nx.hyper.Linearized(),
        "hyper.SelfTuningProblem.sampling": nx.hyper.Uniform(0.0, 1.0),
        "hyper.SelfTuningProblem.shared": None,
        "hyper.SelfTuningProblem.num_penalties": 1,
        "hyperparameters.Bounded.low": -1.0,
        "hyperparameters.Bounded.high": 9.0,
        "measures.no_worse.ours": (jnp.ones(2), jnp.ones(2)),
        "measures.no_worse.others": [(jnp.ones(2), jnp.ones(2))],
        "networks.affine.layer": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "networks.affine.z": jnp.ones((4, 2)),
        "networks.GatedLayer.layer": linear,
        "networks.GatedLayer.response": linear,
        "networks.GatedLayer.gate": linear,
        "problems.InterpolatedGame.gamma": jnp.array([0.5]),
        "catalogue.nested_by_name.name": "digits-decay",
        "catalogue.describe_nested.name": "digits-decay",
        "data.fetch.name": "toy",
        "data.Corpus.name": "toy",
        "learned.preset.name": "rnnprop",
        "learned.save.optimizer": nx.learned.RNNprop(hidden_sizes=(2,), key=jax.random.key(0)),
        **dict.fromkeys(
            (
                "meta.train.optimizer",
                "evaluation.run_adapted.optimizer",
                "evaluation.four_methods.untrained",
                "evaluation.four_methods.trained",
                "evaluation.four_methods.nested",
                "evaluation.AdaptationMethod.optimizer",
                "learned.interpolate.first",
                "learned.interpolate.second",
                "meta.adapt.optimizer",
                "learned.Leafwise.optimizer",
            ),
            nx.learned.RNNprop(hidden_sizes=(2,), key=jax.random.key(0)),
        ),
        "dynamics.predicted_rate.problem": nx.problems.DiracGAN(),
        "dynamics.predicted_rate.players": scalars,
        "dynamics.suggest.problem": nx.problems.DiracGAN(),
        "dynamics.suggest.players": scalars,
        "dynamics.game_jacobian.problem": nx.problems.DiracGAN(),
        "dynamics.game_jacobian.players": scalars,
        "dynamics.Plane.first": (jnp.array([1.0, 0.0]),),
        "dynamics.Plane.second": (jnp.array([0.0, 1.0]),),
        "dynamics.GivenStart.players": (jnp.ones(2),),
        "dynamics.RandomNetworkMap.weights": jnp.eye(2),
        "evaluation.tune_games.make": nx.optimizers.sgd,
        "evaluation.tune.make": nx.optimizers.sgd,
        "evaluation.evaluate.optimizers": {"sgd": optax.sgd(0.1)},
        "evaluation.seconds_per_step.optimizers": {"sgd": optax.sgd(0.1)},
        "meta.FromSampler.make": nx.problems.RotatedSaddle.random,
        "evaluation.mean_interval.values": np.ones(4),
        "measures.first_below.values": jnp.ones(4),
        "measures.tail.values": jnp.ones(4),
        "measures.diverged.values": jnp.ones(4),
        "networks.unchanged.values": jnp.ones(2),
        "networks.convolve.weight": jnp.ones((3, 3, 1, 2)),
        "optimizers.aggregated_momentum.learning_rates": jnp.array([0.1, 0.1]),
        "optimizers.aggregated_momentum.momenta": jnp.array([0.0, 0.9]),
        "problems.LogisticRegression.labels": jnp.array([0, 1] * 4),
        "hyperparameters.Dropout.sites": "layer0",
        "hyper.Unrolled.optimizer": optax.sgd(0.1),
        "evaluation.markdown.evaluation": evaluation,
        "evaluation.plot.result": evaluation,
        "save_solution.solution": nx.solve(Quadratic(), sgd, num_steps=1, key=key),
        "evaluation.table.evaluation": evaluation,
        "dynamics.heat_map.function": lambda players: jnp.sum(players[0] ** 2),
        "dynamics.plot_plane.spectrum": nx.dynamics.spectrum(valid()["operator"]),
        "dynamics.plot_spectrum.spectrum": nx.dynamics.spectrum(valid()["operator"]),
        "guards.ResidualGuard.fallback": nx.guards.GradientDescentMap(0.1),
        "measures.cost_at.costs": jnp.ones((3, 2), jnp.int32),
        "measures.trailing_window.step": 3,
        "meta.ConvexCombination.tasks": nx.FixedProblem(Quadratic()),
        "meta.RandomGameScale.tasks": nx.FixedProblem(nx.problems.RotatedSaddle(1.0, 1.0)),
        "meta.RandomScaling.tasks": nx.FixedProblem(Quadratic()),
        "networks.draw_layer.init_scale": jnp.array(0.1),
        "optimizers.linked_momentum.matrix": 0.5 * jnp.eye(2),
        "problems.LassoBatch.matrix": jnp.ones((1, 2, 2)),
        "problems.LassoBatch.target": jnp.ones((1, 2)),
        "problems.RastriginBatch.matrix": jnp.ones((1, 2, 2)),
        "problems.RastriginBatch.target": jnp.ones((1, 2)),
        "problems.RastriginBatch.weights": jnp.ones((1, 2)),
        "problems.MixedGame.first": nx.problems.MatchingPennies(),
        "problems.MixedGame.second": nx.problems.MatchingPennies(),
    }


EXTRA: dict[str, dict[str, Any]] = {  # optional parameters without which there is nothing to do
    "dynamics.minimize_rate": {"num_iterations": 2},
    "dynamics.diagnose_step": {"num_steps": 2},
    "dynamics.step_exponents": {"num_steps": 2},
    "rollout": {"num_steps": 2},
    "problems.NestedLanguageModel": {"length": 5},
    "problems.random_quadratic": {"dim": 2, "condition_number": 2.0},
}

# No call of these is tried in full: they read a file, draw a picture, or load a large data set.
WITHOUT_CALL = {
    "data.cifar10",
    "data.fetch",
    "data.read_idx",
    "data.read_table",
    "data.tiny_imagenet",
    "dynamics.cubic_roots",
    "evaluation.markdown",
    "evaluation.plot",
    "evaluation.table",
    "hyperparameters.Compose",
    "learned.load",
    "spread",
}


def valid_call(name: str) -> dict[str, Any]:
    """Valid arguments of a public callable, for its required parameters."""
    chosen = dict(EXTRA.get(name, {}))
    for parameter in parameters(name):
        if parameter.default is not inspect.Parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        key = f"{name}.{parameter.name}"
        if key in special():
            chosen[parameter.name] = special()[key]
        elif parameter.name in valid():
            chosen[parameter.name] = valid()[parameter.name]
        else:
            fail(name, parameter.name)
    return chosen
