"""Strong scaling of meta-training over processes, one per core, against the bound of the same run; its all-reduce.

    python -m benchmarks.bench_scale --threads 2 [--json PATH] [--rounds 3]

RNNprop on the MLP for scikit-learn's digits, 8 tasks, unrolls of 20 in runs of 100 steps, float32. In every round, in
turns, each process on a core of its own:

- **one**: 8 tasks in one process; and 2 tasks, which separates what an update costs from what a task costs;
- **bound**: as many processes as cores, each with its share of the tasks, that know nothing of each other;
- **shared**: as many processes, which make one run, with one all-reduce per meta-update (`jax.distributed`, gloo).

What counts is the fastest epoch of all rounds, as the records of the run tell it, compilation excluded: on a machine
that others use, too, the fastest ones are the least disturbed; medians are printed beside. A shared update waits for
the slower of its processes, so it suffers most from others.

The all-reduce alone is timed in a loop of its own, on a vector as long as that of the update. The bytes of an update
are those that the loopback device counts between the first and the last epoch of a shared run, over its updates.

**Model.** An update of T tasks on D devices takes a + b ceil(T / D) + r log2(D) seconds: a and b from 2 and 8 tasks on
one device, r from the all-reduce of two processes. Its prediction for the shared run is printed beside that.
"""

import json
import math
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import _arguments

TASKS, HORIZON, UNROLL, EPOCHS = 8, 100, 20, 5
UPDATES = HORIZON // UNROLL


def main():
    if len(sys.argv) > 1 and sys.argv[1] == "child":
        child(**json.loads(sys.argv[2]))
        return
    args = _arguments.parse(__doc__, rounds=3)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("This benchmark compares one core with several: pass `--threads 2`, or more.")
    share = TASKS // len(cores)
    found: dict[str, list[float]] = {}
    told: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        plan = {
            "one": [{"tasks": TASKS}],
            "two tasks": [{"tasks": 2}],
            "bound": [{"tasks": share} for _ in cores],
            "shared": [{"tasks": TASKS, "num": len(cores), "number": i} for i in range(len(cores))],
        }
        for name, settings in plan.items():
            port = _free_port()
            outs = [_start({**s, "core": core, "port": port}) for s, core in zip(settings, cores)]
            results = [json.loads(out.communicate()[0].splitlines()[-1]) for out in outs]
            epochs = [max(seconds) for seconds in zip(*(r["epochs"] for r in results))]  # the slower of the processes
            found.setdefault(name, []).extend(x / UPDATES for x in epochs)
            for key, value in results[0].get("extra", {}).items():
                told.setdefault(key, []).append(value)
            print(f"{name:12s} {1e3 * min(epochs) / UPDATES:8.2f} ms per update", flush=True)
    rows = report(found, told, len(cores))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"cores": len(cores), "rounds": args.rounds, "load": os.getloadavg()[0], "rows": rows}, file, indent=1
            )


def report(found: dict[str, list[float]], told: dict[str, list[float]], cores: int) -> dict[str, float]:
    best = {name: min(values) for name, values in found.items()}
    per_task = (best["one"] - best["two tasks"]) / (TASKS - 2)
    fixed = best["two tasks"] - 2 * per_task
    reduce = min(told["all-reduce seconds"])
    predicted = predict(TASKS, cores, fixed, per_task, reduce)
    rows = {f"{name}, ms per update": 1e3 * value for name, value in best.items()}
    rows |= {f"{name}, median": 1e3 * statistics.median(values) for name, values in found.items()}
    rows |= {
        "speed-up of the bound": best["one"] / best["bound"],
        "speed-up of the shared run": best["one"] / best["shared"],
        "shared / bound (goal <= 1.15)": best["shared"] / best["bound"],
        "all-reduce, ms": 1e3 * reduce,
        "all-reduce / shared update": reduce / best["shared"],
        "bytes of an update, both directions": statistics.median(told["bytes"]),
        "bytes by the formula": told["bytes by the formula"][0],
        "model: fixed, ms": 1e3 * fixed,
        "model: per task, ms": 1e3 * per_task,
        "model / shared": predicted / best["shared"],
    }
    rows |= {
        f"model: epochs per second, {d} devices, 512 tasks": 1 / (UPDATES * predict(512, d, fixed, per_task, reduce))
        for d in (1, 2, 8, 64, 512)
    }
    for name, value in rows.items():
        print(f"{name:50s} {value:12.4g}")
    return rows


def predict(tasks: int, devices: int, fixed: float, per_task: float, reduce: float) -> float:
    """Seconds per meta-update."""
    return fixed + per_task * math.ceil(tasks / devices) + reduce * math.log2(devices)


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def _start(settings: dict) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.bench_scale", "child", json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


def child(tasks: int, core: int, port: int, num: int = 1, number: int = 0) -> None:
    """One process, on one core."""
    os.sched_setaffinity(0, [core])
    import jax

    import nestax as nx
    from nestax._processes import join

    if num > 1:
        join(f"localhost:{port}", num, number, timeout=120, heartbeat=100)
    optimizer = nx.learned.RNNprop(key=jax.random.key(0))
    traffic: list[int] = []
    training = nx.meta.train(
        optimizer,
        nx.catalogue.resolve("digits-mlp"),
        schedule=[(HORIZON, EPOCHS)],
        unroll=UNROLL,
        num_tasks=tasks,
        key=jax.random.key(1),
        mesh=jax.make_mesh((num,), ("tasks",)) if num > 1 else 1,
        callback=lambda record: traffic.append(_loopback()),
    )
    out: dict[str, Any] = {"epochs": [record["seconds"] for record in training.history[1:]]}
    if num > 1:
        size = sum(x.size for x in jax.tree.leaves(optimizer.network)) + 3
        out["extra"] = {
            "all-reduce seconds": all_reduce_seconds(size),
            # ring: every process sends 2 (D - 1) / D of the vector
            "bytes by the formula": 4.0 * size * 2 * (num - 1),
            # a decision of the callback per epoch is counted in, too
            "bytes": (traffic[-1] - traffic[0]) / (UPDATES * (EPOCHS - 1)) if traffic else 0.0,
        }
    print(json.dumps(out), flush=True)


def all_reduce_seconds(size: int, repetitions: int = 100) -> float:
    """The fastest of some all-reduces of float32 numbers over all devices."""
    import time

    import jax
    import jax.numpy as jnp

    from nestax._mesh import add_up, on_devices, resolve, shard

    mesh = resolve(jax.make_mesh((jax.device_count(),), ("x",)), jax.device_count())
    rows = shard(mesh, jnp.ones((jax.device_count(), size), jnp.float32))
    reduce = jax.jit(lambda x: on_devices(mesh, lambda part: add_up(mesh, part[0])[None], x))
    times = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        jax.block_until_ready(reduce(rows))
        times.append(time.perf_counter() - begun)
    return min(times[5:])


def _loopback() -> int:
    """Bytes that the loopback device has sent, 0 where the system does not say."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[9]) for line in lines if line.strip().startswith("lo:")), 0)


if __name__ == "__main__":
    main()
