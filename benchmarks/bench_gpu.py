"""Learned optimizers on an accelerator: over the bound of its memory, over PyTorch, and against the CPU.

    python -m benchmarks.bench_gpu [--json PATH] [--rounds 5] [--threads N] [--tiny]

It measures on the default device of JAX, and refuses a CPU unless `--tiny` asks for sizes that only show that it runs.
Everything is measured in one run, in turns; the best repetition counts. float32.

- **Step** of L2O-DM and RNNprop at 10,000, 1,000,000 and 10,000,000 coordinates, over **bound** = bytes of the state
  that are read and written once (80 or 82 numbers per coordinate each way, and gradient and parameter) over the
  bandwidth that a copy of 1 GiB reaches in the same run. Above two, a fused kernel would pay: that is printed.
- **Meta-gradient**: exact, of 5 steps, by the backward pass in blocks, per step, over the same bound; at 10,000,000
  coordinates only where the features of all steps fit.
- **PyTorch**, if it is there and sees the device: the same cells, compiled by `torch.compile`.
- **Twin**: an epoch of 5 truncations of 20 steps on 128 two-player games.
- **Hypergradient**: 20 Neumann terms for 10,000,000 hyperparameters, one penalty per weight.
- **Meta-training**: tasks per second, for 8 to 512 tasks of the MLP for digits.
- **Agreement**: the largest difference of ten steps from the CPU, relative.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from . import _arguments

SIZES, STEPS = (10_000, 1_000_000, 10_000_000), 5
TASKS = (8, 64, 512)


def main():
    tiny = "--tiny" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--tiny"]
    args = _arguments.parse(__doc__, rounds=5)
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu" and not tiny:
        sys.exit("No accelerator: JAX found the CPU alone. `--tiny` runs everything at sizes that measure nothing.")
    sizes, tasks = (SIZES, TASKS) if not tiny else ((1_000,), (2,))
    rate = bandwidth(args.rounds, tiny)
    rows: dict[str, float] = {"bandwidth, GB/s": rate}
    for name, items in (
        ("step", lambda: steps(sizes, rate)),
        ("twin", lambda: twin(tiny)),
        ("hypergradient", lambda: hypergradient(sizes[-1])),
        ("training", lambda: training(tasks, tiny)),
    ):
        try:
            rows |= measure(items(), args.rounds)
        except Exception as error:  # out of memory: what fits is still worth knowing
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    rows["largest difference from the CPU"] = agreement()
    for name, value in rows.items():
        print(f"{name:64s} {value:12.4g}")
    worst = max((v for k, v in rows.items() if k.endswith("step / bound") and f"{sizes[-1]:,}" in k), default=0.0)
    print("A fused kernel would pay." if worst > 2 else "XLA is within a factor of two of the bound: no kernel.")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"device": device.device_kind, "tiny": tiny, "rows": rows}, file, indent=1)


Item = tuple[Callable[[], Any], Callable[[float], dict[str, float]]]


def measure(items: list[Item], rounds: int) -> dict[str, float]:
    """What every item makes of its best time, all of them in turns."""
    best = [float("inf")] * len(items)
    for run, _ in items:
        run()  # compiles
    for _ in range(rounds):
        for i, (run, _) in enumerate(items):
            begun = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - begun)
    return {name: value for (_, tell), seconds in zip(items, best) for name, value in tell(seconds).items()}


def _item(function: Callable, *arguments: Any) -> Callable[[], Any]:
    import jax

    return lambda: jax.block_until_ready(function(*arguments))


def bandwidth(rounds: int, tiny: bool) -> float:
    """Of a copy: bytes read and written, in GB/s."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones(2**20 if tiny else 2**28, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return measure([(_item(copy, x), lambda s: {"": 2 * x.nbytes / s / 1e9})], rounds)[""]


def steps(sizes: tuple[int, ...], rate: float) -> list[Item]:
    """Steps and meta-gradients of both optimizers, and of PyTorch's cells."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import nestax as nx

    items: list[Item] = []
    for name, optimizer in (
        ("L2O-DM", nx.learned.L2ODM(key=jax.random.key(0))),
        ("RNNprop", nx.learned.RNNprop(key=jax.random.key(0))),
    ):
        for size in sizes:
            x = jax.random.normal(jax.random.key(1), (size,), jnp.float32)
            state = optimizer.init_update(x)
            floats = sum(a.size for a in jax.tree.leaves(state)) + 2 * size  # and gradient and parameters
            bound = 2 * 4 * floats / (rate * 1e9)
            step = eqx.filter_jit(lambda g, s, p, optimizer=optimizer: optimizer.update(g, s, p))
            label = f"{name}, {size:,} coordinates"
            items.append((_item(step, x, state, x), _over(label, "step", bound, 1)))
            features = jnp.ones((STEPS, optimizer.network.num_features, size), jnp.float32)
            weights = jnp.ones((STEPS, size), jnp.float32)
            gradient = eqx.filter_jit(lambda f, s, w, optimizer=optimizer: optimizer.network_gradient(f, s, w))
            items.append(
                (_item(gradient, features, state.network, weights), _over(label, "meta-gradient", bound, STEPS))
            )
            items += _torch(name, size, optimizer)
    return items


def _over(label: str, what: str, bound: float, number: int) -> Callable[[float], dict[str, float]]:
    def tell(seconds: float) -> dict[str, float]:
        return {
            f"{label}: {what}, ms": 1e3 * seconds / number,
            f"{label}: {what} / bound": seconds / number / bound,
        }

    return tell


def _torch(name: str, size: int, optimizer: Any) -> list[Item]:
    """The step of PyTorch's compiled cells, where PyTorch sees an accelerator."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    hidden = optimizer.network.hidden_sizes
    inputs = optimizer.network.projection_size or optimizer.network.num_features
    widths = [inputs, *hidden[:-1]]
    cells = [torch.nn.LSTMCell(i, h).cuda() for i, h in zip(widths, hidden)]
    x = torch.ones(size, inputs, device="cuda")
    state = [(torch.zeros(size, h, device="cuda"), torch.zeros(size, h, device="cuda")) for h in hidden]

    @torch.compile
    def step(x, state):
        new = []
        for cell, s in zip(cells, state):
            h, c = cell(x, s)
            new.append((h, c))
            x = h
        return new

    def run():
        with torch.no_grad():
            step(x, state)
        torch.cuda.synchronize()

    return [(run, lambda s: {f"{name}, {size:,} coordinates: PyTorch's cells, ms": 1e3 * s})]


def twin(tiny: bool) -> list[Item]:
    import jax

    import nestax as nx

    games = nx.FromSampler(nx.problems.Seesaw.random, **nx.catalogue.SEESAW_RANGES[7])
    optimizer = nx.learned.preset("twin", key=jax.random.key(0))
    how = nx.meta.twin_training() | {"schedule": [(100, 1)], "validation": None, "num_tasks": 2 if tiny else 128}

    def run():
        return nx.meta.train(optimizer, nx.meta.RandomGameScale(games), **how, key=jax.random.key(1), mesh=1)

    return [(run, lambda s: {"Twin: an epoch, ms": 1e3 * s})]


def hypergradient(size: int) -> list[Item]:
    import jax
    import jax.numpy as jnp

    import nestax as nx

    class Ridge(nx.AbstractNested, nx.AbstractDeterministicProblem):
        """A penalty per weight: nothing but elementwise work."""

        def init(self, key):
            return jnp.zeros(size), jnp.ones(size)

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.mean((weights - 0.5) ** 2)

        def inner_loss(self, hyperparameters, weights, sample):
            return jnp.sum((weights - 1) ** 2 + jnp.exp(hyperparameters) * weights**2)

    problem, method = Ridge(), nx.hyper.Implicit(nx.hyper.Neumann(20, 0.1), residual=False)
    players = problem.init(jax.random.key(0))

    def run():
        return jax.block_until_ready(
            nx.hyper.hypergradient(problem, players, None, method, throw=False, mesh=1).gradient
        )

    return [(run, lambda s: {f"hypergradient, 20 terms, {size:,} hyperparameters, ms": 1e3 * s})]


def training(tasks: tuple[int, ...], tiny: bool) -> list[Item]:
    import jax

    import nestax as nx

    problem, horizon = nx.catalogue.resolve("digits-mlp"), 20 if tiny else 100
    optimizer = nx.learned.RNNprop(key=jax.random.key(0))

    def item(num: int) -> Item:
        def run():
            how = {"schedule": [(horizon, 1)], "unroll": 20, "num_tasks": num, "key": jax.random.key(1)}
            return nx.meta.train(optimizer, problem, **how, mesh=1)

        return run, lambda s: {f"meta-training, {num} tasks at once: tasks per second": num / s}

    return [item(num) for num in tasks]


def agreement() -> float:
    """Ten steps of RNNprop on a quadratic, on the default device and on the CPU."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import nestax as nx

    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            problem = nx.problems.Quadratic(jnp.array([1.0, 10.0, 100.0], jnp.float32))
            optimizer = nx.learned.RNNprop(key=jax.random.key(0))
            solution = nx.solve(problem, optimizer, num_steps=10, key=jax.random.key(1))
            found.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(solution.players)]))
    return float(np.max(np.abs(found[0] - found[1])) / np.max(np.abs(found[1])))


if __name__ == "__main__":
    main()
