"""Ctrl-C at random instants of `nestax demo`: it must end quietly with exit status 130, however far it is.

    python -m benchmarks.interrupt_demo [--rounds 200] [--seed 0] [--longest 60]

Prints how each of them ended. A signal, such as of a segmentation fault, shows as a negative exit status.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The process heeds SIGINT, even where the one that starts it does not.
HEED = (
    "import faulthandler, signal, sys; faulthandler.enable(); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); import nestax_command; nestax_command.main()"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--longest", type=float, default=60.0, help="seconds until Ctrl-C, at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, ends, bad = random.Random(args.seed), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(root) / "cache")}
        for index in range(args.rounds):
            command = [sys.executable, "-c", HEED, "demo", "--output", str(Path(root) / f"demo-{index}")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env=environment) as child:  # fmt: skip
                wait = draw.uniform(0.2, args.longest)
                time.sleep(wait)
                child.send_signal(signal.SIGINT)
                begun = time.monotonic()
                _, error = child.communicate()
            late = time.monotonic() - begun
            quiet = "Traceback" not in error and "Fatal" not in error
            ends[child.returncode, quiet] += 1
            if child.returncode not in (0, 130) or not quiet:
                bad += 1
                print(f"round {index}: exit status {child.returncode} after {wait:.2f} s\n{error[-3_000:]}")
            if (index + 1) % 10 == 0 or index + 1 == args.rounds:
                print(f"{index + 1} rounds, (exit status, quiet): {dict(ends)}; the last took {late:.1f} s", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
