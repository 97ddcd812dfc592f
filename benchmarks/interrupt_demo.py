"""Ctrl-C at random instants of `nestax demo`: it must end quietly with exit status 130, however far it is.

    python -m benchmarks.interrupt_demo [--rounds 200] [--seed 0] [--mean 5] [--longest 60] [--json PATH]

Prints how they ended. A signal, such as of a segmentation fault, shows as a negative exit status. Instants are
exponential, so that imports and compilations, where faults are likely, are hit often, and the training sometimes.
Half of the demos are started as `nestax`, and half as `python -m nestax`; all share what they compile.
"""

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The process heeds SIGINT, even where the one that starts it does not.
SITE = """
import faulthandler, signal
faulthandler.enable()
signal.signal(signal.SIGINT, signal.default_int_handler)
print("started", flush=True)
"""
COMMANDS = (("-c", "import nestax_command; nestax_command.main()"), ("-m", "nestax"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--mean", type=float, default=5.0, help="seconds until Ctrl-C, on average")
    parser.add_argument("--longest", type=float, default=60.0, help="seconds until Ctrl-C, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=None, metavar="PATH", help="where to write the counts")
    args = parser.parse_args()
    draw, ends, bad, instants = random.Random(args.seed), collections.Counter(), 0, []
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "sitecustomize.py").write_text(SITE)
        path = os.pathsep.join([root, str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": str(Path(root) / "cache")}
        for index in range(args.rounds):
            output = Path(root) / f"demo-{index}"
            command = [sys.executable, *COMMANDS[index % 2], "demo", "--output", str(output)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env=environment) as child:  # fmt: skip
                assert child.stdout is not None
                child.stdout.readline()
                wait = min(draw.expovariate(1 / args.mean), args.longest)
                time.sleep(wait)
                child.send_signal(signal.SIGINT)
                _, error = child.communicate()
            quiet = "Traceback" not in error and "Fatal" not in error
            instants.append(wait)
            ends[f"exit status {child.returncode}, {'quiet' if quiet else 'loud'}"] += 1
            if child.returncode not in (0, 130) or not quiet:
                bad += 1
                print(f"round {index}: exit status {child.returncode} after {wait:.2f} s\n{error[-3_000:]}", flush=True)
            shutil.rmtree(output, ignore_errors=True)
            if (index + 1) % 10 == 0 or index + 1 == args.rounds:
                used = resource.getrusage(resource.RUSAGE_CHILDREN)
                counts = {
                    "rounds": index + 1,
                    "ends": dict(ends),
                    "bad": bad,
                    "median_seconds": round(statistics.median(instants), 2),
                    "longest_seconds": round(max(instants), 2),
                    "cpu_seconds": round(used.ru_utime + used.ru_stime),
                    "seed": args.seed,
                }
                print(counts, flush=True)
                if args.json:
                    Path(args.json).write_text(json.dumps(counts, indent=2) + "\n")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
