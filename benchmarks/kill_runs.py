"""`kill -9` at random instants on trainings and tunings, with two processes fighting for the folder in half of them.

    python -m benchmarks.kill_runs [--rounds 200] [--seed 0] [--kills 3] [--json benchmarks/results/kills.json]

In every round a run is started and killed a few times, each time after a random while, and then goes on undisturbed to
its end. Its arrays must be those of a run that nobody touched, bit for bit, and so must its log; no other file may be
left. Every second round has two processes, which both try to run in the folder until the run is complete.

Processes are forked from one that has imported everything but computed nothing, and share what they compile.
"""

import argparse
import importlib
import json
import multiprocessing
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

FILES = {
    "train": {"training.png", "optimizer.safetensors"},
    "tune": {"tuning.png"},
}
PACKAGES = ("matplotlib.figure", "optax", "nestax.learned", "nestax.meta", "nestax.hyper", "nestax.problems")
COMMON = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "report.md"}


def run(kind: str, folder: str, cache: str, pause: float) -> None:
    """A run to its end; where another process has the folder, again and again."""
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def callback(record: Any) -> None:
        time.sleep(pause)

    while True:
        try:
            {"train": train, "tune": tune}[kind](run=folder, resume=True, checkpoint_seconds=0.0, callback=callback)
            return
        except ValueError as error:
            if "is in use by process" not in str(error):
                raise
            time.sleep(0.002)


def train(**options: Any) -> None:
    import jax
    import jax.numpy as jnp
    import optax

    import nestax as nx

    nx.meta.train(
        nx.learned.RNNprop(hidden_sizes=(2,), projection_size=2, key=jax.random.key(0)),
        nx.meta.RandomScaling(nx.FixedProblem(nx.problems.Quadratic(jnp.array([1.0, 10.0]))), 1.0),
        key=jax.random.key(0),
        schedule=[(10, 6), (20, 6)],
        unroll=5,
        meta_optimizer=optax.adam(1e-2),
        validation=nx.meta.Validation(every=2, num_runs=2),
        **options,
    )


def tune(**options: Any) -> None:
    import jax
    import optax

    import nestax as nx

    nx.hyper.tune(
        noisy_problem(),
        optimizer=nx.optimizers.adam(0.05),
        outer_optimizer=optax.rmsprop(0.05),
        method=nx.hyper.Implicit(nx.hyper.CG(2, warm_start=True)),
        num_outer_steps=24,
        num_inner_steps=3,
        record_every=2,
        key=jax.random.key(5),
        **options,
    )


def noisy_problem() -> Any:
    """Quadratic, with noise by key in both losses: every sample matters, so a lost or repeated one shows."""
    import jax
    import jax.numpy as jnp

    import nestax as nx

    class Noisy(nx.AbstractNested):
        def init(self, key):
            return jnp.ones(3), jax.random.normal(key, (3,))

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.sum((weights - 2 + 0.1 * jax.random.normal(sample, (3,))) ** 2)

        def inner_loss(self, hyperparameters, weights, sample):
            noise = 0.1 * jax.random.normal(sample, (3,))
            return jnp.sum((weights - hyperparameters + noise) ** 2) + 0.1 * jnp.sum(weights**4)

    return Noisy()


def contents(kind: str, folder: Path) -> Any:
    """What a run leaves: arrays, counters, log without times; and the names of its files."""
    from nestax._storage import StoredTree

    stored = StoredTree(folder / "checkpoint.safetensors")
    arrays = {name: array.tobytes() for name, array in stored.arrays.items()}
    header = {k: v for k, v in stored.header.items() if k != "log"}  # a hash of the log, with its times
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    trained = folder / "optimizer.safetensors"
    return arrays, header, log, trained.read_bytes() if trained.exists() else None, {p.name for p in folder.iterdir()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3, help="per round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=None, metavar="PATH", help="where to write the counts")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    warnings.filterwarnings("ignore", "os.fork")  # nothing has been computed yet, so there are no threads
    context = multiprocessing.get_context("fork")
    for package in PACKAGES:
        importlib.import_module(package)
    # a hit finds the process alive; a duel is a round with two processes; wrong is any difference, and any other file
    counts: dict[str, Any] = dict.fromkeys(
        ("rounds", "kills", "hits", "hits_of_train", "hits_of_tune", "duels", "wrong"), 0
    )
    counts["seed"] = args.seed

    with tempfile.TemporaryDirectory() as root:
        cache = str(Path(root) / "cache")

        def start(kind: str, folder: Path, pause: float) -> Any:
            child = context.Process(target=run, args=(kind, str(folder), cache, pause))
            child.start()
            return child

        whole, seconds = {}, {}
        for kind in FILES:
            for name in ("first", "second"):  # the second time all is compiled
                folder, begun = Path(root) / f"{kind}-{name}", time.monotonic()
                child = start(kind, folder, 0.01)
                child.join()
                assert child.exitcode == 0
                seconds[kind] = time.monotonic() - begun
            whole[kind] = contents(kind, folder)
            assert whole[kind][-1] == COMMON | FILES[kind], whole[kind][-1]
        for index in range(args.rounds):
            kind, folder = ("train", "tune")[index // 2 % 2], Path(root) / str(index)
            rivals = 1 + index % 2
            counts["duels"] += rivals - 1
            for _ in range(args.kills):
                children = [start(kind, folder, 0.01) for _ in range(rivals)]
                for child in children:
                    time.sleep(draw.uniform(0.0, 1.2 * seconds[kind]) / rivals)
                    counts["kills"] += 1
                    counts["hits"] += child.is_alive()
                    counts[f"hits_of_{kind}"] += child.is_alive()
                    child.kill()
                for child in children:
                    child.join()
                    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
            child = start(kind, folder, 0.0)
            child.join()
            good = child.exitcode == 0 and contents(kind, folder) == whole[kind]
            counts["wrong"] += not good
            if not good:
                print(
                    f"round {index} ({kind}): exit status {child.exitcode}, files {[p.name for p in folder.iterdir()]}"
                )
            counts["rounds"] = index + 1
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            counts["cpu_seconds"] = round(used.ru_utime + used.ru_stime)
            if args.json:
                Path(args.json).write_text(json.dumps(counts, indent=2) + "\n")
            if (index + 1) % 10 == 0 or index + 1 == args.rounds:
                print(counts, flush=True)
            if good:
                shutil.rmtree(folder)
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
