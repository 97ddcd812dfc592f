"""One of the processes of a small meta-training; prints JSON.

Arguments: port, number of processes, number of this one, settings of `main` as JSON.
"""

import hashlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

import jax
import numpy as np

import nestax as nx
from nestax._processes import ProcessLost, join


def tasks(key):
    return nx.problems.random_quadratic(key, dim=6, condition_number=10.0)


def digest(tree):
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree))).hexdigest()[:16]


def main(port, num, number, folder, epochs=4, resume=False, seed=1, killed=None, joins=60, writes=True):
    if not writes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # every write to a file fails
    Path(f"{folder}.{number}.pid").write_text(str(os.getpid())) if killed is not None else None
    if num > 1:
        join(f"localhost:{port}", num, number, timeout=joins, heartbeat=20)

    def callback(record):  # called in the first process alone, while the others go on
        if killed is not None and record["epoch"] == 1:
            os.kill(int(Path(f"{folder}.{killed}.pid").read_text()), signal.SIGKILL)

    training = nx.meta.train(
        nx.learned.RNNprop((3,), 2, key=jax.random.key(0)),
        tasks,
        schedule=[(4, epochs)],
        unroll=2,
        num_tasks=4,
        key=jax.random.key(seed),
        validation=nx.meta.Validation(every=2, num_runs=3),
        mesh=jax.make_mesh((jax.device_count(),), ("tasks",)),
        run=folder,
        resume=resume,
        checkpoint_seconds=0,
        callback=callback,
    )
    scores = [r["validation"] for r in training.history if "validation" in r]
    weights = [float(x) for leaf in jax.tree.leaves(training.optimizer.network) for x in np.ravel(leaf)]
    print(json.dumps({"digest": digest(training.optimizer.network), "weights": weights, "scores": scores}), flush=True)


if __name__ == "__main__":
    port, num, number, settings = sys.argv[1:]
    try:
        main(port, int(num), int(number), **json.loads(settings))
    except (ValueError, OSError, ProcessLost) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if getattr(error, "everywhere", False):
            sys.exit(2)  # all leave together
        os._exit(3 if isinstance(error, ProcessLost) else 2)
