"""How the trained optimizers that come with the package are made, each from one seed, with its card."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from .. import catalogue, evaluation, learned, meta, optimizers
from .._checks import unknown_name
from .._storage import write_json
from .._version import __version__
from ..evaluation import CLASSICAL

_VALIDATION = 77  # folded into the seed: what all meta-seeds are judged on
_EVALUATION = 78  # and what the card shows, which had no part in the choice


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one trained optimizer is made, and what its card says in words."""

    summary: str
    fails: tuple[str, ...]  # where it is not to be used
    preset: str
    problem: str  # of the catalogue
    schedule: tuple[tuple[int, int], ...]  # stages (steps per trajectory, trajectories)
    unroll: int = 20
    log_loss: float | None = None  # the meta-loss is the sum of ln(loss + this); `None`: the sum of losses
    learning_rate: float = 1e-3  # of the meta-optimizer, Adam
    imitation: float = 0.0  # share of the epochs that imitate Adam with rate 0.01
    validate_every: int = 10
    num_seeds: int = 3  # meta-seeds, of which the one with the best validation is shipped
    judged_at: tuple[int, ...] = (500, 2_000)  # the score of a meta-seed is the mean ln loss at these steps
    shown_on: tuple[str, ...] = ("digits-mlp", "mnist-mlp")
    marks: tuple[int, ...] = (100, 500, 1_000, 2_000)
    rivals: tuple[str, ...] = ("adam", "rmsprop")
    num_runs: int = 5  # initial points of the choice, and as many others of the card


ENTRIES: Mapping[str, Entry] = {
    "rnnprop-small": Entry(
        "RNNprop with one layer of 8 units, trained on the digits network: the optimizer with the cheapest steps.",
        (
            "Trained on one network with 1,510 parameters and sigmoid units; other problems are transfer.",
            "It was trained on runs of at most 500 steps, and may fall back far beyond them.",
        ),
        "rnnprop-small",
        "digits-mlp",
        ((100, 60), (200, 30), (500, 12)),
        log_loss=1e-4,
    ),
}


def train_entry(entry: Entry, seed: int, run: Path | None = None) -> meta.MetaTraining:
    """One meta-training of an entry; in the folder `run` it resumes."""
    teacher = optimizers.adam(0.01)
    return meta.train(
        learned.preset(entry.preset, key=jax.random.key(seed)),
        catalogue.by_name(entry.problem),
        key=jax.random.key(seed),
        schedule=entry.schedule,
        unroll=entry.unroll,
        meta_loss=meta.Sum() if entry.log_loss is None else meta.SumLog(entry.log_loss),
        meta_optimizer=optax.adam(entry.learning_rate),
        teaching=meta.Imitation(teacher, entry.imitation) if entry.imitation else None,
        validation=meta.Validation(every=entry.validate_every, num_runs=entry.num_runs),
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
        "problem": entry.problem,
        "training": {
            "schedule": entry.schedule,
            "unroll": entry.unroll,
            "meta_loss": "sum of losses" if entry.log_loss is None else f"sum of ln(loss + {entry.log_loss:g})",
            "meta_optimizer": f"Adam {entry.learning_rate:g}",
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
    problem = catalogue.by_name(entry.problem)
    steps, runs = max(entry.judged_at), entry.num_runs
    key = _key(seed, _VALIDATION)
    found = evaluation.evaluate(problem, {"learned": optimizer}, num_steps=steps, num_seeds=runs, key=key)
    scores = [found.curves["learned"].log_loss(mark)[0] for mark in entry.judged_at]
    return sum(scores) / len(scores)


def _evaluate(entry: Entry, optimizer: learned.AbstractLearnedOptimizer, name: str, seed: int) -> dict[str, Any]:
    """The learned optimizer, and classical ones with the rate that is best for the last mark on other runs."""
    problem, key, steps = catalogue.by_name(name), _key(seed, _EVALUATION), max(entry.marks)
    contestants = {"learned": optimizer}
    for rival in entry.rivals:
        tuning = evaluation.tune(problem, *CLASSICAL[rival], num_steps=steps, num_seeds=2, key=_key(seed, _VALIDATION))
        rate = tuning.best()["learning_rate"]
        contestants[f"{rival} {rate:g}"] = CLASSICAL[rival].make(rate)
    found = evaluation.evaluate(problem, contestants, num_steps=steps, num_seeds=entry.num_runs, key=key)
    return {
        name: {
            "ms_per_step": float(f"{1e3 * curve.seconds_per_step:.3g}"),
            "ln_loss": {str(mark): [round(v, 2) for v in curve.log_loss(mark)] for mark in entry.marks},
        }
        for name, curve in found.curves.items()
    }
