"""Speed of one training epoch of Twin-L2O in the released setting: 128 instances of Seesaw, 50 pairs of moves, H = 50.

    python -m benchmarks.bench_twin [--threads 1|2] [--json PATH] [--rounds 5]

Both sides start from the same weights and points, and make the same ten meta-updates; that their meta-losses agree is
checked before anything is timed (to 1e-3 relative for every epoch, float32). The initial states are zero, where the
released code draws them. Times are of whole epochs in one run, in alternation; the best of all rounds counts, and the
median is printed beside it. For nestax it is the time that `meta.train` itself reports per epoch, compilation apart.

"one by one" is nestax without unrolling the steps between two updates. "products" is a lower bound: the matrix products
of an epoch alone, forward, and backward to inputs and weights, on the shapes of the networks' layers.

PyTorch: "batched" computes all instances at once; "looped" computes payoff and gradient one instance after the other,
as the released code does, and calls the networks for all instances at once.
"""

import json
import statistics
import time
from typing import Any

from . import _arguments

EPOCHS = 4  # per round; the first one of a round is compiled or warms up


def main():
    args = _arguments.parse(__doc__, rounds=5)
    times, losses = measure(args.threads, args.rounds)
    rows = report(times, losses, args.threads)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"threads": args.threads, "seconds": times, "meta_losses": losses, "derived": rows}, file, indent=1
            )


def setup():
    """The optimizer, the instances, and the initial points of every epoch of seed 0, as `meta.train` draws them."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import nestax as nx

    rule = nx.learned.ReleasedRule(horizon=50, initial_noise=0.0)
    arguments: dict[str, Any] = {**nx.learned.PRESETS["twin-release"].arguments, "rule": rule}
    optimizer = nx.learned.TwinLSTM(**arguments, key=jax.random.key(0))
    draw = nx.FromSampler(nx.problems.Seesaw.random, a=jnp.array([0.9, 1.0]), b=jnp.array([0.9, 1.0]))
    tasks = nx.Instances.draw(draw, 128, jax.random.key(1))
    epoch_key = jax.random.split(jax.random.key(0))[0]

    def start(epoch, i):
        keys = jax.random.split(jax.random.split(jax.random.fold_in(epoch_key, epoch), 128)[i], 3)
        return tasks.get(i).init(keys[1])

    starts = jax.jit(jax.vmap(jax.vmap(start, (None, 0)), (0, None)))(jnp.arange(EPOCHS), jnp.arange(128))
    return optimizer, tasks, [tuple(np.asarray(p[e]) for p in starts) for e in range(EPOCHS)]


def train(optimizer, tasks, settings):
    import jax

    import nestax as nx

    history = nx.meta.train(optimizer, tasks, key=jax.random.key(0), **settings).history
    return [r["seconds"] for r in history], [r["meta_loss"] for r in history]


def torch_trainer(optimizer, tasks, kind):
    import numpy as np

    from . import twin_torch

    networks = [
        twin_torch.Network(
            [(np.asarray(c.weight), np.asarray(c.bias)) for c in n.cells],
            np.asarray(n.readout_weight),
            np.asarray(n.readout_bias),
        )
        for n in optimizer.networks
    ]
    problem = getattr(twin_torch, kind)(np.asarray(tasks.problems.a), np.asarray(tasks.problems.b))
    return twin_torch.Trainer(networks, problem)


def measure(threads: int, rounds: int):
    """Seconds per epoch, best and median, and the meta-losses of the epochs."""
    import numpy as np

    import nestax as nx

    from . import twin_torch

    twin_torch.set_threads(threads)
    optimizer, tasks, starts = setup()
    settings = nx.meta.twin_release_training() | {"schedule": ((50, EPOCHS),), "validation": None}
    losses = {"nestax": train(optimizer, tasks, settings)[1]}  # compiles
    for kind in ("Batched", "Looped"):
        trainer = torch_trainer(optimizer, tasks, kind)
        losses[kind.lower()] = [trainer.epoch(s[0], s[1]) for s in starts[: EPOCHS if kind == "Batched" else 1]]
        known = losses["nestax"][: len(losses[kind.lower()])]
        np.testing.assert_allclose(losses[kind.lower()], known, rtol=1e-3, atol=1e-6)
    rolled = settings | {"estimator": nx.meta.TruncatedBackprop(nx.KeepAll())}
    samples: dict[str, list[float]] = {"nestax": [], "one by one": [], "products": [], "batched": [], "looped": []}
    for _ in range(rounds):
        samples["nestax"] += train(optimizer, tasks, settings)[0][1:]
        samples["one by one"] += train(optimizer, tasks, rolled)[0][1:]
        samples["products"].append(products(optimizer))
        for kind in ("Batched", "Looped"):
            trainer = torch_trainer(optimizer, tasks, kind)
            for s in starts[1:] if kind == "Batched" else starts[1:2]:
                begin = time.perf_counter()
                trainer.epoch(s[0], s[1])
                samples[kind.lower()].append(time.perf_counter() - begin)
    return {name: {"best": min(x), "median": statistics.median(x)} for name, x in samples.items()}, losses


def products(optimizer) -> float:
    """Seconds for the matrix products of an epoch."""
    import jax
    import jax.numpy as jnp

    repeats, total = 100, 0.0
    for cell in optimizer.networks[0].cells:
        gates, inputs = cell.weight.shape
        for rows, inner, columns in ((128, inputs, gates), (128, gates, inputs), (gates, 128, inputs)):

            @jax.jit
            def run(left, right, out):  # each product depends on the one before, so that none is left out
                return jax.lax.fori_loop(0, repeats, lambda _, out: (left + out[0, 0]) @ right, out)

            args = (jnp.ones((rows, inner)), jnp.ones((inner, columns)), jnp.zeros((rows, columns)))
            run(*args).block_until_ready()  # compiles
            begin = time.perf_counter()
            run(*args).block_until_ready()
            total += (time.perf_counter() - begin) / repeats
    return 2 * 50 * total  # two networks, 50 pairs


def report(times, losses, threads: int) -> dict[str, float]:
    print(f"{threads} thread(s), seconds per epoch; meta-losses of the first epoch:", losses["nestax"][0])
    for name, value in times.items():
        print(f"  {name:10s} {value['best']:8.4f}  (median {value['median']:.4f})")
    rows = {
        "PyTorch looped / nestax (goal >= 60)": times["looped"]["best"] / times["nestax"]["best"],
        "PyTorch batched / nestax (goal >= 3)": times["batched"]["best"] / times["nestax"]["best"],
    }
    for name, value in rows.items():
        print(f"  {name:40s} {value:6.2f}")
    return rows


if __name__ == "__main__":
    main()
