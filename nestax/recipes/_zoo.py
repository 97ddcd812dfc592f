"""How the trained optimizers that come with the package are made, each from one seed, with its card."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from .. import catalogue, evaluation, learned, meta, optimizers, problems
from .._checks import unknown_name
from .._optimizer import AbstractOptimizer
from .._storage import write_json
from .._version import __version__
from ..evaluation import CLASSICAL
from ._optimizees import look, optimizee

_VALIDATION = 77  # folded into the seed: what all meta-seeds are judged on
_EVALUATION = 78  # and what the card shows, which had no part in the choice


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one trained optimizer is made, and what its card says in words."""

    summary: str
    fails: tuple[str, ...]  # where it is not to be used
    preset: str
    problems: tuple[str, ...]  # of the catalogue; each epoch is on one of them
    schedule: tuple[tuple[int, int], ...]  # stages (steps per trajectory, trajectories)
    unroll: int = 20
    log_loss: float | None = None  # the meta-loss is the sum of ln(loss + this); `None`: the sum of losses
    learning_rate: float = 1e-3  # of the meta-optimizer, Adam
    inner_rate: float = 0.0  # of the step of adaptation in nested training, `meta.AdaptedGradient`; 0: plain training
    imitation: float = 0.0  # share of the epochs that imitate Adam with rate 0.01
    validate_every: int = 10
    validation_runs: int = 5
    num_seeds: int = 3  # meta-seeds, of which the one with the best score is shipped
    judged_at: tuple[int, ...] = (500, 2_000)  # the score of a meta-seed is the mean ln loss at these steps
    shown_on: tuple[str, ...] = ("digits-mlp", "mnist-mlp")
    marks: tuple[int, ...] = (100, 500, 1_000, 2_000)
    rivals: tuple[str, ...] = ("adam", "rmsprop")
    num_runs: int = 5  # initial points of the choice, and as many others of the card


ENTRIES: Mapping[str, Entry] = {
    "rnnprop-small": Entry(
        "RNNprop with one layer of 4 units, trained on the digits network: cheap steps, and no end of progress there.",
        (
            "Trained on one network of 1,510 parameters with sigmoid units, on runs of at most 500 steps. All else is "
            "transfer.",
            "On MLP-orig it is level with tuned Adam and RMSprop after equally many steps, but a step costs about two "
            "of theirs: at equal seconds it is behind there.",
            "With another meta-seed one of five runs of 5,000 steps on the digits ended at ln loss -7.9, the others "
            "near -17: guard it in long runs.",
        ),
        "rnnprop-small",
        ("digits-mlp",),
        ((100, 60), (200, 30), (500, 12)),
        log_loss=1e-4,
        imitation=0.3,
    ),
    "m-l2o-small": Entry(
        "As rnnprop-small, but nested (M-L2O, Yang et al. 2023): a start for `nestax.meta.adapt` on classifiers.",
        (
            "It is made to be adapted, and need not be better for it: on two unseen tables and Fashion-MNIST it is "
            "level with the adapted rnnprop-small twice, and behind once (recipe ml2o/real-data).",
            "Trained on one network of 1,510 parameters with sigmoid units, on runs of at most 500 steps. All else is "
            "transfer.",
        ),
        "rnnprop-small",
        ("digits-mlp",),
        ((100, 60), (200, 30), (500, 12)),
        log_loss=1e-4,
        inner_rate=1e-3,
        imitation=0.3,
        num_seeds=2,
        shown_on=("digits-mlp",),
        rivals=("adam",),
    ),
}


def train_entry(entry: Entry, seed: int, run: Path | None = None) -> meta.MetaTraining:
    """One meta-training of an entry; in the folder `run` it resumes."""
    tasks = [catalogue.by_name(name) for name in entry.problems]
    nested = meta.AdaptedGradient(entry.inner_rate, estimator=meta.CoordinateSum(256)) if entry.inner_rate else None
    return meta.train(
        learned.preset(entry.preset, key=jax.random.key(seed)),
        tasks[0] if len(tasks) == 1 else meta.Ensemble(tasks),
        key=jax.random.key(seed),
        schedule=entry.schedule,
        unroll=entry.unroll,
        estimator=nested,
        meta_loss=meta.Sum() if entry.log_loss is None else meta.SumLog(entry.log_loss),
        meta_optimizer=optax.adam(entry.learning_rate),
        teaching=meta.Imitation(optimizers.adam(0.01), entry.imitation) if entry.imitation else None,
        validation=meta.Validation(every=entry.validate_every, num_runs=entry.validation_runs),
        run=run,
        resume=run is not None,
    )


def make_pretrained(name: str, folder: Path, seed: int = 0, entries: Mapping[str, Entry] = ENTRIES) -> dict[str, Any]:
    """Makes `NAME.safetensors` and its card `NAME.json` in a folder, from a seed; an interrupted call goes on.

    The meta-seeds are `seed`, `seed + 1`, ... All are judged on the same runs of the training problem, so that one that
    learned nothing is never taken; the card's curves are of other runs.
    """
    if name not in entries:
        raise unknown_name("trained optimizer", name, entries)
    entry = entries[name]
    seeds, found = {}, {}
    for s in range(seed, seed + entry.num_seeds):
        training = train_entry(entry, s, folder / "runs" / f"{name}-{s}")
        found[s] = training.optimizer
        seeds[str(s)] = {
            "score": round(_score(entry, training.optimizer, seed), 4),
            "seconds": round(sum(record["seconds"] for record in training.history), 1),
            "skipped_updates": training.num_skipped,
        }
    chosen = min(found, key=lambda s: seeds[str(s)]["score"])
    value = {
        "name": name,
        "summary": entry.summary,
        "fails": entry.fails,
        "preset": entry.preset,
        "arguments": _short(found[chosen].config()),
        "problems": entry.problems,
        "training": {
            "schedule": entry.schedule,
            "unroll": entry.unroll,
            "meta_loss": "sum of losses" if entry.log_loss is None else f"sum of ln(loss + {entry.log_loss:g})",
            "meta_optimizer": f"Adam {entry.learning_rate:g}",
            "inner_rate": entry.inner_rate,
            "imitation": entry.imitation,
            "validate_every": entry.validate_every,
        },
        "seeds": seeds,
        "chosen": chosen,
        "score": f"mean ln loss at {', '.join(f'{m:,}' for m in entry.judged_at)} steps over {entry.num_runs} runs",
        "cost": {
            "optimizee_steps": sum(horizon * epochs for horizon, epochs in entry.schedule),
            "seconds": seeds[str(chosen)]["seconds"],
        },
        "evaluations": {p: _evaluate(entry, found[chosen], p, seed) for p in entry.shown_on},
        "command": f"nestax zoo {name} --make FOLDER --seed {seed}",
        "licence": "Apache-2.0",
        "version": __version__,
        "device": evaluation.device_name(),
    }
    learned.save(folder / f"{name}.safetensors", found[chosen])
    write_json(folder / f"{name}.json", value)
    return value


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the digits that float32 adds."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in config.items()}


def _key(seed: int, purpose: int) -> Any:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _score(entry: Entry, optimizer: learned.AbstractLearnedOptimizer, seed: int) -> float:
    """The mean ln loss on the training problems; a run that failed makes it infinite."""
    keys, scores = jax.random.split(_key(seed, _VALIDATION), entry.num_runs), []
    for name in entry.problems:
        problem = catalogue.by_name(name)
        assert isinstance(problem, problems.Classifier)
        found = look(problem, None, optimizer, entry.judged_at, keys)
        scores += [found[mark]["ln_loss"] for mark in entry.judged_at]
    return float(np.nan_to_num(np.mean(scores), nan=np.inf))


def _evaluate(entry: Entry, optimizer: learned.AbstractLearnedOptimizer, name: str, seed: int) -> dict[str, Any]:
    """The learned optimizer, and classical ones with the rate that is best for the last mark on other runs."""
    (problem, test), last = optimizee(name), max(entry.marks)
    contestants: dict[str, AbstractOptimizer] = {"learned": optimizer}
    for rival in entry.rivals:
        tuning = evaluation.tune(problem, *CLASSICAL[rival], num_steps=last, num_seeds=1, key=_key(seed, _VALIDATION))
        rate = tuning.best()["learning_rate"]
        contestants[f"{rival} {rate:g}"] = CLASSICAL[rival].make(rate)
    out, key = {}, _key(seed, _EVALUATION)
    for name, one in contestants.items():
        found = look(problem, test, one, entry.marks, jax.random.split(key, entry.num_runs))
        logs = {str(mark): found[mark]["ln_loss"] for mark in entry.marks}
        out[name] = {
            "ms_per_step": float(f"{1e3 * evaluation.seconds_per_step(problem, one, key):.3g}"),
            "ln_loss": {m: [_number(f(x)) for f in (np.mean, np.min, np.max)] for m, x in logs.items()},
            "accuracy": round(float(np.mean(found[last]["accuracy"])), 3),
        }
    return out


def _number(value: Any) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None
