"""Learn an optimizer on real data in half a minute, and see it win, and see where it stops winning."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from ... import catalogue, learned, meta
from ...evaluation import evaluate, plot
from .._recipe import Claim, Metrics, Recipe
from ._common import margin, scores, table, tuned_classical


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the quickstart is run."""

    problem: str = "digits-mlp"  # embedded in scikit-learn: no download
    optimizer: str = "rnnprop-stronger-baselines"  # learns faster and more steadily than L2O-DM
    schedule: tuple[tuple[int, int], ...] = ((100, 100),)  # the published training of RNNprop
    unroll: int = 20  # steps per truncation, as published
    meta_seeds: int = 1  # trainings; the first is shown
    classical: tuple[str, ...] = ("adam", "rmsprop", "nesterov", "sgd")  # each with its own tuned learning rate
    horizon: int = 500  # where the optimizers are compared
    long_horizon: int = 5_000  # 50 times the horizon of the training: what happens later
    tuning_seeds: int = 2  # runs per learning rate
    num_seeds: int = 5  # fresh initial points per optimizer


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Trains, tunes, evaluates; writes the optimizer, a plot and the training's run folder."""
    problem = catalogue.by_name(protocol.problem)
    trained, meta_losses = {}, {}
    for i in range(protocol.meta_seeds):
        optimizer = learned.preset(protocol.optimizer, key=jax.random.key(seed + i))
        training = meta.train(
            optimizer,
            problem,
            key=jax.random.key(seed + i),
            schedule=protocol.schedule,
            unroll=protocol.unroll,
            run=folder / f"training-{seed + i}",
            resume=True,
            config={"problem": protocol.problem, "preset": protocol.optimizer},
            progress=progress,
        )
        name = "learned" if i == 0 else f"learned, meta-seed {seed + i}"
        trained[name] = training.optimizer
        meta_losses[name] = round(training.history[-1]["meta_loss"], 4)
    learned.save(folder / "optimizer.safetensors", trained["learned"])

    tuning_key, evaluation_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    marks = (protocol.horizon, protocol.long_horizon)
    classical, record = tuned_classical(problem, protocol.classical, marks, protocol.tuning_seeds, tuning_key)
    evaluation = evaluate(
        problem,
        trained | classical,
        num_steps=protocol.long_horizon,
        num_seeds=protocol.num_seeds,
        key=evaluation_key,
        progress=progress,
    )
    title = f"{protocol.problem}: learned on {protocol.schedule[-1][0]}-step runs"
    plot(evaluation, folder / "comparison.png", title)
    ln_loss = scores(evaluation, record, marks)
    cost = {name: curve.seconds_per_step for name, curve in evaluation.curves.items()}
    adam = min(seconds for name, seconds in cost.items() if name.startswith("adam"))
    return {
        "ln_loss": ln_loss,
        "tuning": record,
        "final_meta_loss": meta_losses,
        "cost_in_adam_steps": round(cost["learned"] / adam, 1),
        "margins": {
            name: {str(mark): margin(ln_loss, mark, name, protocol.classical) for mark in marks} for name in trained
        },
        "marks": list(marks),
        "evaluation": evaluation.to_json(),
        "tables": [table(evaluation, "ln loss, mean over seeds [min, max]; cost of a step")],
    }


def _margins(index: int) -> Any:
    """The smallest margin over the meta-seeds at the mark with that index."""

    def value(metrics: Metrics) -> float | None:
        found = [margins[str(metrics["marks"][index])] for margins in metrics["margins"].values()]
        return None if None in found else min(found)

    return value


RECIPE = Recipe(
    name="l2o/quickstart",
    title="RNNprop learned on the digits network against tuned classical optimizers",
    source="Lv et al. 2017 and Chen et al. 2020, at a size that trains in half a minute",
    scales={
        "smoke": Protocol(
            schedule=((40, 3),), classical=("adam", "sgd"), horizon=50, long_horizon=100, tuning_seeds=1, num_seeds=2
        ),
        "laptop": Protocol(),
        "paper": Protocol(meta_seeds=5, tuning_seeds=5, num_seeds=10),
    },
    run=run,
    claims=(
        Claim(
            "Q1",
            "At five times its training horizon the learned optimizer is below tuned Adam, RMSprop, Nesterov and SGD.",
            "qualitative (Lv et al. 2017, figures 2-5)",
            _margins(0),
            lambda value: value > 0,
            "Value: ln loss of the best of the four minus that of the learned optimizer (worst meta-seed); above 0.",
        ),
        Claim(
            "Q2",
            "Far beyond its training horizon the learned optimizer has fallen behind the best classical one.",
            "qualitative (Chen et al. 2020, figure 2)",
            _margins(1),
            lambda value: value < 0,
            "Value as in Q1, at fifty times the training horizon; below 0. It is why guards and curricula exist.",
        ),
        Claim(
            "Q3",
            "A step of the learned optimizer costs several steps of Adam on a CPU.",
            "not stated",
            lambda metrics: metrics["cost_in_adam_steps"],
            lambda value: value > 3,
            "Value: seconds per step over those of Adam, both of a single run; above 3. It depends on machine and "
            "problem size, and is stated so that nobody compares steps alone.",
        ),
    ),
)
