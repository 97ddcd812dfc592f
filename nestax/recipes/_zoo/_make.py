"""Weights and cards, made from a seed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import evaluation, learned
from ..._checks import unknown_name
from ..._storage import write_json
from ..._version import __version__
from ._entries import SHIPPED
from ._entry import AbstractEntry, steps_of


def make_pretrained(
    name: str, folder: Path, seed: int = 0, entries: Mapping[str, AbstractEntry] = SHIPPED
) -> dict[str, Any]:
    """Makes `NAME.safetensors` and its card `NAME.json` in a folder, from a seed; an interrupted call goes on.

    The meta-seeds are `seed`, `seed + 1`, ... All are judged on the same runs of the training problem, so that one that
    learned nothing is never taken; the card's curves are of other runs.
    """
    if name not in entries:
        raise unknown_name("trained optimizer", name, entries)
    entry = entries[name]
    seeds, found = {}, {}
    for s in range(seed, seed + entry.num_seeds):
        training = entry.train(s, folder / "runs" / f"{name}-{s}")
        found[s] = training.optimizer
        seeds[str(s)] = {
            "score": round(entry.score(training.optimizer, seed), 4),
            "optimizee_steps": steps_of(training),
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
        "training": entry.told(),
        "seeds": seeds,
        "chosen": chosen,
        "score": entry.score_told(),
        "cost": {
            "optimizee_steps": seeds[str(chosen)]["optimizee_steps"],
            "seconds": seeds[str(chosen)]["seconds"],
        },
        "evaluations": {p: entry.evaluate(found[chosen], p, seed) for p in entry.shown_on},
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
