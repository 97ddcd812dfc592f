"""L2O-DM and RNNprop on the problem that they were trained for: fast at first, lost far beyond the training horizon."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ... import catalogue, data, learned, meta, problems
from ...evaluation import evaluate, plot
from .._recipe import Claim, Metrics, Recipe
from ._common import margin, scores, table, tuned_classical


@dataclasses.dataclass(frozen=True)
class Training:
    """How one learned optimizer is meta-trained."""

    preset: str  # a published variant
    epochs: int  # trajectories of 100 steps
    validate_every: int  # epochs between validations
    validation_runs: int  # trajectories per validation
    meta_seeds: int = 1  # independent trainings


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    rnnprop: Training  # 100 epochs in the paper
    l2o_dm: Training  # 10,000 epochs in the paper
    train_problem: str = "mnist-mlp"  # MLP 784-20-10, sigmoid, the 60,000 training images
    evaluation_split: str = "test"  # the published evaluation trains the optimizee on the 10,000 test images
    horizon: int = 100  # steps per meta-training trajectory
    unroll: int = 20  # steps per truncation
    early: tuple[int, ...] = (100, 200, 500)  # steps at which the claims on fast starts are checked
    long_horizon: int = 10_000  # 100 times the training horizon, as published
    classical: tuple[str, ...] = ("sgd", "momentum", "adam", "rmsprop")  # RMSprop is the strongest at 10,000 steps
    tuning_seeds: int = 2  # runs per learning rate
    num_seeds: int = 5  # fresh initial points; 10 in the paper


def _problem(protocol: Protocol) -> tuple[problems.Classifier, problems.Classifier]:
    train = catalogue.by_name(protocol.train_problem)
    if not isinstance(train, problems.Classifier):
        raise ValueError(f"`train_problem` must be a classifier, got '{protocol.train_problem}'.")
    if protocol.train_problem != "mnist-mlp":
        return train, train
    test = data.mnist(protocol.evaluation_split)
    return train, problems.Classifier(test, train.architecture, train.batch_size)


def _train(name: str, how: Training, protocol: Protocol, problem: Any, seed: int, folder: Path, progress: bool):
    optimizers, records = {}, {}
    for i in range(how.meta_seeds):
        meta_seed = seed + i
        training = meta.train(
            learned.preset(how.preset, key=jax.random.key(meta_seed)),
            problem,
            key=jax.random.key(meta_seed),
            schedule=((protocol.horizon, how.epochs),),
            unroll=protocol.unroll,
            validation=meta.Validation(every=how.validate_every, num_runs=how.validation_runs),
            run=folder / f"{name}-{meta_seed}",
            resume=True,
            config={"problem": protocol.train_problem, "preset": how.preset},
            progress=progress,
        )
        key = name if i == 0 else f"{name}/{meta_seed}"
        optimizers[key] = training.optimizer
        validations = [(r["validation"], r["epoch"] + 1) for r in training.history if r.get("validation") is not None]
        records[key] = {
            "epochs": len(training.history),
            "seconds": round(sum(r["seconds"] for r in training.history), 1),
            "validations": [[epoch, round(loss, 4)] for loss, epoch in validations],
            "best_epoch": min(validations)[1] if validations else None,
            "best_validation": round(min(validations)[0], 4) if validations else None,
            "skipped_updates": training.num_skipped,
        }
    return optimizers, records


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Trains both, tunes the classical ones on other seeds, evaluates all on fresh initial points."""
    train_problem, problem = _problem(protocol)
    trained, trainings = {}, {}
    for name, how in (("rnnprop", protocol.rnnprop), ("l2o-dm", protocol.l2o_dm)):
        optimizers, records = _train(name, how, protocol, train_problem, seed, folder, progress)
        trained |= optimizers
        trainings |= records

    tuning_key, evaluation_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    marks = (*protocol.early, protocol.long_horizon)
    classical, record = tuned_classical(problem, protocol.classical, marks, protocol.tuning_seeds, tuning_key)
    evaluation = evaluate(
        problem,
        trained | classical,
        num_steps=protocol.long_horizon,
        num_seeds=protocol.num_seeds,
        key=evaluation_key,
        progress=progress,
    )
    plot(evaluation, folder / "comparison.png", f"{protocol.train_problem}, meta-trained on {protocol.horizon} steps")
    ln_loss = scores(evaluation, record, marks)
    rivals = ("sgd", "momentum", "adam")
    lowest = {
        name: min((curve.log_loss(step)[0], step) for step in evaluation.marks())
        for name, curve in evaluation.curves.items()
    }
    return {
        "ln_loss": ln_loss,
        "training": trainings,
        "tuning": record,
        "margins": {name: {str(m): margin(ln_loss, m, name, rivals) for m in marks} for name in trained},
        "lowest": {name: {"ln_loss": round(value, 4), "step": step} for name, (value, step) in lowest.items()},
        "marks": list(marks),
        "evaluation": evaluation.to_json(),
        "tables": [table(evaluation, "ln loss, mean over seeds [min, max]; cost of a step")],
    }


def _margin_at(name: str, index: int) -> Callable[[Metrics], float | None]:
    return lambda metrics: metrics["margins"][name][str(metrics["marks"][index])]


def _late_change(name: str) -> Callable[[Metrics], float | None]:
    """ln loss at the long horizon minus ln loss at the last early mark: negative means that it went on improving."""

    def value(metrics: Metrics) -> float | None:
        early, late = (metrics["ln_loss"][str(metrics["marks"][i])][name][0] for i in (-2, -1))
        return None if None in (early, late) else round(late - early, 4)

    return value


def _lag(name: str) -> Callable[[Metrics], float | None]:
    """How much less than Adam it improves between the last early mark and the long horizon, in ln loss."""

    def value(metrics: Metrics) -> float | None:
        ours, adam = _late_change(name)(metrics), _late_change("adam")(metrics)
        return None if ours is None or adam is None else round(ours - adam, 4)

    return value


_MARGIN = "Value: ln loss of the best of tuned SGD, momentum and Adam minus ours, mean over seeds; above 0."
_LAG = (
    "Value: change of ln loss from 500 to 10,000 steps minus that of Adam; above 2, several times Adam's spread over "
    "seeds (about 1 at 10,000 steps)."
)


def _claims(name: str, title: str, late: str) -> tuple[Claim, ...]:
    early = tuple(
        Claim(
            f"{title}-{steps}",
            f"{title} is below tuned SGD, momentum and Adam after {steps} steps on fresh initial points.",
            "qualitative (Andrychowicz et al. 2016, figure 4; Lv et al. 2017, figure 2)",
            _margin_at(name, i),
            lambda value: value > 0,
            _MARGIN,
        )
        for i, steps in enumerate((100, 200, 500))
    )
    lost = Claim(
        f"{title}-late",
        f"Far beyond its training horizon {title} stops improving or gets worse, while Adam goes on.",
        late,
        _lag(name),
        lambda value: value > 2,
        _LAG,
    )
    return (*early, lost)


_SMOKE = Training("rnnprop-stronger-baselines", epochs=2, validate_every=1, validation_runs=2)

RECIPE = Recipe(
    name="l2o/in-distribution",
    title="L2O-DM and RNNprop, meta-trained on MLP-orig on MNIST with 100-step trajectories",
    source="Chen et al. 2020, figure 2 (baselines); Andrychowicz et al. 2016; Lv et al. 2017",
    scales={
        "smoke": Protocol(
            rnnprop=_SMOKE,
            l2o_dm=dataclasses.replace(_SMOKE, preset="l2o-dm-stronger-baselines"),
            train_problem="digits-mlp",
            horizon=40,
            early=(20, 30, 50),
            long_horizon=100,
            classical=("sgd", "momentum", "adam"),
            tuning_seeds=1,
            num_seeds=2,
        ),
        "laptop": Protocol(
            rnnprop=Training("rnnprop-stronger-baselines", 100, validate_every=10, validation_runs=10, meta_seeds=3),
            l2o_dm=Training("l2o-dm-stronger-baselines", 2_000, validate_every=50, validation_runs=5, meta_seeds=2),
        ),
        "paper": Protocol(
            rnnprop=Training("rnnprop-stronger-baselines", 100, validate_every=10, validation_runs=20, meta_seeds=5),
            l2o_dm=Training("l2o-dm-stronger-baselines", 10_000, validate_every=100, validation_runs=20, meta_seeds=5),
            tuning_seeds=5,
            num_seeds=10,
        ),
    },
    run=run,
    claims=(
        *_claims("rnnprop", "RNNprop", "-6.0 at 10,000 steps (read off; the released network gives about -10.9)"),
        *_claims("l2o-dm", "L2O-DM", "lowest -2.3 near step 500, 0.0 at 10,000 steps (read off)"),
    ),
    notes=(
        "The published evaluation trains the optimizee on the 10,000 test images of MNIST; so does this one. Learning "
        "rates of the classical optimizers are tuned per column, on other seeds.\n\n"
        "At laptop scale the fast start does not stand out against *tuned* Adam: all differences up to 500 steps are "
        "within 0.17 in ln loss, and only two of the three RNNprops (at 500 steps) and one of the two L2O-DMs (at 100 "
        "steps) are below it. Both are ahead of tuned SGD throughout, and of momentum nearly so. Adam at 0.03 is as "
        "fast at first and stalls later; at 0.01 it is slower at first and goes on; the claims compare with the better "
        "one at each mark. The plateau beyond the training horizon reproduces clearly. L2O-DM did not need its 2,000 "
        "epochs: its validation loss was lowest after 400 and 250 of them and then rose, so validation has to keep "
        "it.\n\n"
        "Tried besides, one meta-seed each, evaluated on 5 other seeds at 500 steps, where Adam at 0.03 is at -2.03 "
        "and an RNNprop of this recipe, too: the meta-loss `SumLog` in place of `Sum`, -2.15 (and level with Adam at "
        "200); truncations of 100 steps in place of 20, with 150 epochs, -1.78.\n\n"
        "The trained optimizers lie beside the recorded result, in `results/l2o/in-distribution/`, for "
        "`nestax.learned.load`."
    ),
)
