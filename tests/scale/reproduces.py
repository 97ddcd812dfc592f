"""One of the processes that reproduce a small recipe; prints the result. Arguments: port, number of processes, number,
folder."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax

from nestax._processes import join
from nestax.data import DataError
from nestax.recipes import Recipe, reproduce


@dataclasses.dataclass(frozen=True)
class Protocol:
    num_seeds: int = 3


def measure(trial, add):
    shared = trial.once("shared", lambda folder: 10)
    if add == 3:
        raise DataError("not here")
    before = sum(x["value"] for x in trial.results["first"]) if trial.cell == "second" else 0
    time.sleep(0.2)
    return {"value": trial.seed + add + shared + before, "process": jax.process_index()}


RECIPE = Recipe(
    "test/shared",
    "A recipe",
    "none",
    dict.fromkeys(("smoke", "laptop", "paper"), Protocol()),
    (),
    cells=lambda protocol: {"first": {"add": 1}, "second": {"add": 2}, "third": {"add": 3, "num_seeds": 2}},
    measure=measure,
    summarize=lambda results: {"values": dict(results)},
)

if __name__ == "__main__":
    port, num, number, folder = sys.argv[1:]
    if int(num) > 1:
        join(f"localhost:{port}", int(num), int(number), timeout=60, heartbeat=20)
    print(json.dumps(reproduce(RECIPE, "smoke", 0, Path(folder))["metrics"]))
