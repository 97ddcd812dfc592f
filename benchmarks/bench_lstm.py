"""Speed of the coordinatewise LSTM network of L2O-DM: forward, exact meta-gradient, and meta-gradient on a subset.

    python -m benchmarks.bench_lstm [--threads 1|2] [--json PATH] [--rounds 5]

The problem is the MLP 784-20-10 (15,910 coordinates), batches of 128, 20 unrolled steps, float32. All times are in
milliseconds per optimizee step. Everything is measured in one run, in alternation, and compared within it: the best of
all repetitions counts (the median is printed beside it).

**Bound.** Probes measure what XLA reaches on the very shapes of the network with the given number of threads, each in a
loop, over a range of widths (narrow ones stay in the cache, wide ones use all cores); the best width counts:

- the rate of the products of the forward pass, of those with the transposed weights, of those of the weight gradients;
- the rate of tanh.

    forward       = forward products / their rate + 200 n tanh / its rate        (n coordinates, 2 layers of 20 + 80)
    meta-gradient = 2 forward + (transposed products + weight-gradient products) / their rates

that is, a forward pass that is not differentiated (gradients are recorded in it), a second one over the recorded
features, and a backward pass. Element-wise work other than tanh, copies and memory traffic are not in the bound.

**Measured:** "network" has no optimizee: the scan over given features; its meta-gradient includes that scan. With
"optimizee", gradients, features and cotangents of the MLP are computed as in meta-training. "subset" draws 256 of the
15,680 first-layer weights, one of each of 256 strata, and keeps all others. PyTorch computes the network alone, by
autograd through the 20 steps (one forward pass, nothing recomputed), in both layouts; the faster one counts.
"""

import functools
import json
import statistics
import time

from . import _arguments

STEPS, BATCH, SIZES = 20, 128, (784, 20, 10)
NUM = SIZES[0] * SIZES[1] + SIZES[1] + SIZES[1] * SIZES[2] + SIZES[2]
WIDTHS = (256, 1024, 4096, NUM)
REPEATS = 3


def main():
    args = _arguments.parse(__doc__, rounds=5)
    times = measure(args.threads, args.rounds)
    rows = report(times, args.threads)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"threads": args.threads, "ms": times, "derived": rows}, file, indent=1)


def measure(threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Best and median milliseconds of every item, and of every probe (named `probe/...`, per call)."""
    items = {**probes(), **nestax_items(), **torch_items(threads)}
    samples: dict[str, list[float]] = {name: [] for name in items}
    for run, _ in items.values():
        run()  # compiles
    for _ in range(rounds):
        for name, (run, count) in items.items():
            for _ in range(1 if name.startswith("torch") else REPEATS):
                start = time.perf_counter()
                run()
                samples[name].append(1e3 * (time.perf_counter() - start) / count)
    return {name: {"best": min(x), "median": statistics.median(x)} for name, x in samples.items()}


PRODUCTS = {  # rows, inner, columns as functions of the width; how they are contracted
    "forward": [((80, 22), (22, None)), ((80, 40), (40, None))],
    "transposed": [((20, 80), (80, None)), ((40, 80), (80, None))],
    "weights": [((80, None), (None, 22)), ((80, None), (None, 40))],
}


def probes():
    """Loops of one kind of operation on operands that depend on the loop's last result in one number only."""
    import jax
    import jax.numpy as jnp

    def product(kind, a, b):
        if kind == "transposed":
            return a.T @ b
        return a @ b.T if kind == "weights" else a @ b

    items = {}
    for width in WIDTHS:
        count = max(5, 40_000 // width)
        for kind, shapes in PRODUCTS.items():
            for number, shape in enumerate(shapes):
                (m, k), (_, r) = [[width if s is None else s for s in pair] for pair in shape]
                a = jnp.full((k, m) if kind == "transposed" else (m, k), 0.1, jnp.float32)
                b = jnp.full((r, k) if kind == "weights" else (k, r), 0.1, jnp.float32)

                def loop(a, b, kind=kind, count=count):
                    def body(_, carry):
                        b, out = carry
                        b = jax.lax.dynamic_update_slice(b, 1e-9 * out[:1, :1], (0, 0))
                        return b, product(kind, a, b)

                    return jax.lax.fori_loop(0, count, body, (b, product(kind, a, b)))[1]

                items[f"probe/{kind}{number}/{width}"] = _item(jax.jit(loop), (a, b), count + 1)
        x = jnp.full((80, width), 0.5, jnp.float32)

        def tanh(x, count=count):
            return jax.lax.fori_loop(0, count, lambda _, x: jnp.tanh(x), x)

        items[f"probe/tanh/{width}"] = _item(jax.jit(tanh), (x,), count)
    return items


def _item(function, args, count):
    import jax

    return (lambda: jax.block_until_ready(function(*args))), count


def _network():
    import jax
    import jax.numpy as jnp

    from nestax.learned._network import CoordinatewiseLSTM

    return CoordinatewiseLSTM(dtype=jnp.float32, key=jax.random.key(0))


def _data():
    import numpy as np

    rng = np.random.default_rng(0)
    features = rng.standard_normal((STEPS, 2, NUM)).astype(np.float32)
    cotangents = rng.standard_normal((STEPS, NUM)).astype(np.float32)
    return features, cotangents


def nestax_items():
    import jax
    import jax.numpy as jnp

    from nestax.learned._network_gradient import weighted_outputs_gradient

    network = _network()
    features, cotangents = map(jnp.asarray, _data())
    key = jax.random.key(1)
    first = SIZES[0] * SIZES[1]

    def draw():  # one of each of 256 equal strata: unbiased, and without the sort of `jax.random.choice`
        chosen = ((jnp.arange(256) + jax.random.uniform(key, (256,), jnp.float32)) * (first / 256)).astype(jnp.int32)
        weight = jnp.ones(256 + NUM - first, jnp.float32).at[:256].set(first / 256)
        return jnp.concatenate([chosen, jnp.arange(first, NUM)]), weight

    def gradient(network, features, cotangents, subset):
        if subset:
            index, weight = draw()
            features, cotangents = features[:, :, index], cotangents[:, index] * weight[None]
        state = network.init_state(features.shape[-1], jnp.float32)
        return weighted_outputs_gradient(network, features, state, cotangents, lambda out: 0.01 * out)

    def forward(network, features):
        def step(state, x):
            out, state = network(x, state)
            return state, out

        return jax.lax.scan(step, network.init_state(NUM, jnp.float32), features)

    def meta(network, features, cotangents, subset):
        return forward(network, features), gradient(network, features, cotangents, subset)

    # The optimizee: an MLP on random data, its parameters as one vector.
    images = jax.random.uniform(key, (STEPS, BATCH, SIZES[0]), jnp.float32)
    labels = jax.random.randint(key, (STEPS, BATCH), 0, SIZES[2])
    theta = 0.05 * jax.random.normal(key, (NUM,), jnp.float32)

    def loss(theta, x, y):
        b1, w2 = first + SIZES[1], first + SIZES[1] + SIZES[1] * SIZES[2]
        hidden = jax.nn.sigmoid(x @ theta[:first].reshape(SIZES[0], SIZES[1]) + theta[first:b1][None])
        logits = hidden @ theta[b1:w2].reshape(SIZES[1], SIZES[2]) + theta[w2:][None]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    def unroll(network, theta, images, labels):
        def step(carry, batch):
            theta, state = carry
            g = jax.grad(loss)(theta, *batch)
            x = jnp.stack([jnp.maximum(jnp.log(jnp.abs(g) + 1.2e-7) / 10, -1), jnp.clip(22026.466 * g, -1, 1)])
            out, state = network(x, state)
            return (theta + 0.01 * out, state), (x, g)

        return jax.lax.scan(step, (theta, network.init_state(NUM, jnp.float32)), (images, labels))

    def meta_unroll(network, theta, images, labels, subset):
        carry, (features, gradients) = unroll(network, theta, images, labels)
        later = jnp.cumsum(gradients[::-1], axis=0)[::-1]
        return carry, gradient(network, features, later, subset)

    run = (network, theta, images, labels)
    jit = jax.jit
    return {
        "network/forward": _item(jit(forward), (network, features), STEPS),
        "network/meta": _item(jit(functools.partial(meta, subset=False)), (network, features, cotangents), STEPS),
        "network/meta subset": _item(jit(functools.partial(meta, subset=True)), (network, features, cotangents), STEPS),
        "optimizee/forward": _item(jit(unroll), run, STEPS),
        "optimizee/meta": _item(jit(functools.partial(meta_unroll, subset=False)), run, STEPS),
        "optimizee/meta subset": _item(jit(functools.partial(meta_unroll, subset=True)), run, STEPS),
    }


def torch_items(threads: int):
    import numpy as np

    from . import lstm_torch

    lstm_torch.set_threads(threads)
    network = _network()
    cells = [(np.asarray(c.weight), np.asarray(c.bias)) for c in network.cells]
    items = {}
    for layout in lstm_torch.LAYOUTS:
        model = lstm_torch.Network(cells, np.asarray(network.readout_weight), np.asarray(network.readout_bias), layout)
        data = model.prepare(*_data())
        items[f"torch {layout}/forward"] = (lambda model=model, data=data: model.forward(data[0])), STEPS
        items[f"torch {layout}/meta"] = (lambda model=model, data=data: model.meta_gradient(*data)), STEPS
    return items


def bounds(times: dict[str, dict[str, float]]) -> dict[str, float]:
    """The two bounds of the module's docstring in ms per step, and the rates in G/s behind them."""
    total, rates = {}, {}
    for kind, shapes in PRODUCTS.items():
        total[kind], flops = 0.0, 0.0
        for number, ((m, k), (_, r)) in enumerate(shapes):
            # Time of a product of this shape for all coordinates: the best time per coordinate of any width.
            total[kind] += NUM * min(times[f"probe/{kind}{number}/{w}"]["best"] / w for w in WIDTHS)
            flops += 2.0 * NUM * m * (k or 1) * (r or 1)
        rates[f"{kind} products, GFLOP/s"] = flops / total[kind] / 1e6
    tanh = min(times[f"probe/tanh/{w}"]["best"] / (80 * w) for w in WIDTHS)
    rates["tanh, G/s"] = 1e-6 / tanh
    forward = total["forward"] + 200 * NUM * tanh
    return {"forward": forward, "meta": 2 * forward + total["transposed"] + total["weights"], **rates}


def report(times: dict[str, dict[str, float]], threads: int) -> dict[str, float]:
    bound = bounds(times)
    torch = {
        kind: min(v["best"] for name, v in times.items() if name.startswith("torch") and name.endswith(kind))
        for kind in ("forward", "meta")
    }
    print(f"{threads} thread(s), {NUM} coordinates, {STEPS} steps; ms per step")
    for name, value in bound.items():
        print(f"  {'bound ' + name if name in ('forward', 'meta') else name:36s} {value:8.2f}")
    for name, value in times.items():
        if not name.startswith("probe"):
            print(f"  {name:36s} {value['best']:8.2f}  (median {value['median']:.2f})")

    def get(name):
        return times[name]["best"]

    rows = {
        "bound forward": bound["forward"],
        "bound meta": bound["meta"],
        "forward / bound (goal <= 1.4)": get("network/forward") / bound["forward"],
        "meta / bound (goal <= 1.6)": get("network/meta") / bound["meta"],
        "torch forward / forward (goal >= 1.5)": torch["forward"] / get("network/forward"),
        "torch meta / meta (goal >= 1.5)": torch["meta"] / get("network/meta"),
        "subset meta / forward (goal <= 1.3)": get("network/meta subset") / get("network/forward"),
        "torch meta / subset meta (goal >= 5)": torch["meta"] / get("network/meta subset"),
        "with optimizee: meta / forward": get("optimizee/meta") / get("optimizee/forward"),
        "with optimizee: subset meta / forward": get("optimizee/meta subset") / get("optimizee/forward"),
    }
    for name, value in rows.items():
        print(f"  {name:40s} {value:6.2f}")
    return rows


if __name__ == "__main__":
    main()
