"""What `import nestax` and `nestax --help` cost, as ratios to the imports of JAX, Equinox, Optax and Lineax.

    python -m benchmarks.bench_import [--threads 1|2] [--json PATH] [--rounds 7]

Processor seconds of fresh interpreters, started in turn; the least of all rounds counts. Goals: at most 1.15 for the
import (on top of these four), at most 1.5 for the help.
"""

import json
import os
import resource
import subprocess
import sys

from . import _arguments

PEERS = "import jax, equinox, optax, lineax"
COMMANDS = {
    "peers": [sys.executable, "-c", PEERS],
    "import nestax": [sys.executable, "-c", f"{PEERS}, nestax"],
    "nestax --help": [sys.executable, "-m", "nestax", "--help"],
}
GOALS = {"import nestax": 1.15, "nestax --help": 1.5}


def main():
    args = _arguments.parse(__doc__, rounds=7)
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(args.rounds):
        for name, command in COMMANDS.items():
            best[name] = min(best[name], processor_seconds(command))
    ratios = {name: best[name] / best["peers"] for name in GOALS}
    for name in COMMANDS:
        print(f"{name:16}{best[name]:8.2f} s" + (f"{ratios[name]:8.2f} (goal {GOALS[name]})" if name in GOALS else ""))
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"threads": args.threads, "seconds": best, "ratios": ratios, "goals": GOALS}, file, indent=1)


def processor_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
