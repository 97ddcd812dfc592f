"""What every benchmark is told on its command line."""

import argparse
import os


def parse(description: str | None, rounds: int) -> argparse.Namespace:
    """`threads`, `rounds` and `json`; pins the process to so many cores, so call it before libraries start threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="cores to use (default: 1)")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"repetitions; the best counts (default: {rounds})")
    parser.add_argument("--json", default=None, metavar="PATH", help="where to write the results")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < args.threads:
        parser.error(f"{args.threads} threads asked for, {len(cores)} cores available.")
    os.sched_setaffinity(0, cores[-args.threads :])
    return args
