"""Ten penalties: how well a Gaussian process and hypernetworks predict the validation loss after training."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import data, hyper, hyperparameters, networks, optimizers, problems
from ..._nested import InnerProblem
from ..._solve import solve
from .. import Metrics, Recipe, Results, Trial, above, at, below, claims, lines, ratio
from ._common import draw, load, rank_correlation

GP, GP_SCALED = "Gaussian process", "Gaussian process, scaled"
SAME, FRESH = "hypernetwork, same penalties", "hypernetwork, fresh penalties"
HIDDEN = "hypernetwork, fresh penalties, hidden layer"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    num_test: int  # trainings that are predicted; published: 10,215
    num_fit: int = 25  # trainings that models are fitted to, as published
    num_train: int = 50_000  # examples, as published
    num_valid: int = 2_000
    training_steps: int = 1_000  # Adam on mini-batches of 100, as published; for every tuple of penalties
    fixed_steps: int = 500  # of the hypernetwork that is trained on the same penalties, as published
    fresh_steps: int = 600  # of the one that sees fresh ones in every step, as published
    hidden_steps: int = 3_000  # of one with a hidden layer, which is ours
    batch_size: int = 100
    learning_rate: float = 1e-4  # of weights and of responses, as published
    half_width: float = 3.0  # penalties are uniform between minus and plus this, as published
    num_seeds: int = 2
    dataset: str = "mnist"


class ClassDecay(hyperparameters.AbstractHyperparameters):
    """One weight decay for the weights of every class of a linear network."""

    def init(self, key, weights, data):
        return jnp.zeros_like(weights[-1]["bias"])

    def penalty(self, values, weights):
        layer = weights[-1]
        return jnp.sum(jnp.exp(values) * (jnp.sum(layer["weight"] ** 2, axis=0) + layer["bias"] ** 2))


def _problem(p: Protocol, seed: int) -> problems.NestedClassifier:
    train, valid = draw(load(p.dataset, "train"), (p.num_train, p.num_valid), seed)
    return problems.NestedClassifier(train, valid, networks.MLP((), init_scale=1e-5), ClassDecay(), p.batch_size)


def train_all(problem: problems.NestedClassifier, points: Any, valid: data.Dataset, p: Protocol, key: Any) -> Any:
    """The validation loss after training under every tuple: one compiled program, the same start and mini-batches."""
    start = problem.init(key)[1]

    def one(point: Any) -> Any:
        inner = InnerProblem(problem, point)
        adam, steps = optimizers.adam(p.learning_rate), p.training_steps
        out = solve(inner, adam, players=(start,), num_steps=steps, record_every=steps, key=key)
        return problem.full_loss(out.players[0], valid)

    return np.asarray(jax.vmap(one)(points), np.float64)


def gaussian_process(points: Any, losses: Any, wanted: Any, scaled: bool) -> Any:
    """The mean of a Gaussian process with scikit-learn's kernel RBF and one restart; `scaled` by a fitted amplitude."""
    from sklearn import gaussian_process as gp  # here, since it is slow to load

    kernel = gp.kernels.ConstantKernel() * gp.kernels.RBF() if scaled else gp.kernels.RBF()
    model = gp.GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)
    with warnings.catch_warnings():  # scikit-learn warns of length scales at the end of their range
        warnings.simplefilter("ignore")
        return model.fit(np.asarray(points, np.float64), losses).predict(np.asarray(wanted, np.float64))


def hypernetwork(
    trial: Trial, problem: Any, family: hyper.AbstractBestResponse, sampling: Any, steps: int, wanted: Any
) -> Any:
    """The validation loss of the weights that a hypernetwork gives."""
    prepared = hyper.Hypernetwork(family, sampling, trial.protocol.num_fit).prepare(problem)
    inner = InnerProblem(prepared, prepared.init(trial.key)[0])
    adam = optimizers.adam(trial.protocol.learning_rate)
    (fitted,) = solve(inner, adam, num_steps=steps, record_every=steps, key=trial.key).players
    return np.asarray(jax.lax.map(lambda h: problem.full_loss(prepared.respond(fitted, h), problem.valid), wanted))


def measure(trial: Trial) -> dict[str, Any]:
    """Errors of every model on the trainings that it was not fitted to."""
    p: Protocol = trial.protocol
    problem, box = _problem(p, trial.seed), hyper.Uniform(-p.half_width, p.half_width)
    points = box.draw(trial.keys(2)[0], jnp.zeros(10), None, p.num_fit + p.num_test)
    losses = train_all(problem, points, problem.valid, p, trial.key)
    (fit, known), (wanted, truth) = (
        (points[: p.num_fit], losses[: p.num_fit]),
        (points[p.num_fit :], losses[p.num_fit :]),
    )
    linear = hyper.LinearResponse()
    predictions = {
        GP: gaussian_process(fit, known, wanted, scaled=False),
        GP_SCALED: gaussian_process(fit, known, wanted, scaled=True),
        SAME: hypernetwork(trial, problem, linear, hyper.Among(fit), p.fixed_steps, wanted),
        FRESH: hypernetwork(trial, problem, linear, box, p.fresh_steps, wanted),
        HIDDEN: hypernetwork(trial, problem, hyper.MLPResponse(50), box, p.hidden_steps, wanted),
    }
    models = {}
    for name, predicted in predictions.items():
        errors = np.asarray(predicted, np.float64) - truth
        models[name] = {
            "mean error": errors.mean(),
            "standard deviation": errors.std(),
            "median absolute error": np.median(abs(errors)),
            "rank correlation": rank_correlation(np.asarray(predicted), truth),
            "regret": truth[np.argmin(predicted)] - truth.min(),
        }
    return {
        "models": models,
        "spread": truth.std(),
        "curves": {"true": truth, **{name: np.asarray(p) for name, p in predictions.items()}},
    }


def summarize(results: Results) -> Metrics:
    seeds = results["run"]
    names = seeds[0]["models"]
    rows = {name: {k: np.array([one["models"][name][k] for one in seeds]) for k in names[name]} for name in names}
    means = {name: {k: v.mean() for k, v in row.items()} for name, row in rows.items()}
    return {"models": means, "by_seed": rows, "spread": np.mean([one["spread"] for one in seeds])}


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    curves = results["run"][0]["curves"]
    panels = {name: {"test trainings": (curves["true"], curves[name])} for name in metrics["models"]}
    return {"predictions": lines(panels, ("true validation loss", "predicted"), style=".")}


def _error(name: str) -> Any:
    return at("models", name, "median absolute error")


MEDIAN = "Ratio of median absolute errors, means over seeds"
CLAIMS = claims(
    f"""
    S1 | published | A hypernetwork that sees fresh penalties predicts better than a Gaussian process fitted to 25
        trainings. | its errors are the most concentrated at 0 (figure 2.6) | {MEDIAN}
    S2 | published | It predicts better than one that is trained on the same 25 penalties. | its errors are the most
        concentrated at 0 (figure 2.6) | {MEDIAN}
    S3 | published | The Gaussian process predicts too low a loss. | it under-predicts (figure 2.6)
        | Mean error over test trainings, the largest over seeds
    S4 | published | The hypernetwork on the same penalties predicts too high a loss. | it over-predicts (figure 2.6)
        | Mean error over test trainings, the smallest over seeds
    S5 | ours | With fresh penalties it also predicts better than a Gaussian process whose amplitude is fitted. | none
        | {MEDIAN}
    S8 | ours | One with 50 hidden units that is trained five times as long predicts better than that
        Gaussian process.
        | none | {MEDIAN}
    S6 | ours | The linear one ranks penalties nearly as their trainings do. | none
        | Spearman's rank correlation on test trainings, mean over seeds
    S7 | control | There is something to predict: trainings differ. | none | The standard deviation of their losses
    """,
    {
        "S1": (ratio(_error(FRESH), _error(GP)), below(1.0), 1.2),
        "S2": (ratio(_error(FRESH), _error(SAME)), below(1.0), 1.2),
        "S3": (at("by_seed", GP, "mean error", by=max), below(0.0), 0.1),
        "S4": (at("by_seed", SAME, "mean error", by=min), above(0.0), -0.1),
        "S5": (ratio(_error(FRESH), _error(GP_SCALED)), below(1.0), 1.2),
        "S8": (ratio(_error(HIDDEN), _error(GP_SCALED)), below(1.0), 1.2),
        "S6": (at("models", FRESH, "rank correlation"), above(0.9), 0.5),
        "S7": (at("spread"), above(0.01), 0.001),
    },
)

RECIPE = Recipe(
    name="hypernet/surrogates",
    title="A Gaussian process and hypernetworks as surrogates of the validation loss",
    source="Lorraine 2024, figure 2.6; Lorraine, Duvenaud 2018, figure 4",
    scales={
        "smoke": Protocol(6, 4, 50, 20, 4, 4, 4, 4, batch_size=10, num_seeds=1, dataset="digits"),
        "laptop": Protocol(500),
        "paper": Protocol(10_215, num_valid=10_000),
    },
    measure=measure,
    summarize=summarize,
    pictures=pictures,
    tables=lambda metrics: {
        "Errors of predictions, predicted minus true": [{"model": n, **r} for n, r in metrics["models"].items()]
    },
    claims=CLAIMS,
)
