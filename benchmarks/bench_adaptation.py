"""Cost of nested meta-gradients: first and second order against the plain meta-gradient, in time and in memory.

    python -m benchmarks.bench_adaptation [--threads 1|2] [--json PATH] [--rounds 5]

One truncation of 20 steps of RNNprop with one layer of 20 units (the preset of M-L2O) on a batch of 128 LASSO problems
in 10 dimensions (1,280 coordinates), float32, with one task. Everything is measured in one run, in alternation, and
compared within it: the best of all rounds counts. Memory is what XLA reserves for temporary buffers of the compiled
program (arguments and results are the same for all), so it needs no measurement and has no noise.

- "plain": `TruncatedBackprop`, which computes every step again in the backward pass; the unit of all ratios.
- "plain, keep all": the same that keeps all intermediate values.
- "plain, coordinates": `CoordinateSum(256)`, a random subset of 256 coordinates.
- "first order": `AdaptedGradient`, query on the next truncation. Two plain gradients, so the ratio in time has to be
  about 2; in memory, about 1, as one is done when the other begins.
- "first order, coordinates": the same with `CoordinateSum(256)` inside.
- "second order": query on the same truncation. Two plain gradients and a product with the Hessian, by forward over
  reverse differentiation: the product costs about two more gradients in operations, so about 4 in time, and about twice
  the memory, since all that the backward pass reads has a tangent.
- "second order, keep all": the same that keeps all intermediate values.
"""

import json
import time

from . import _arguments

STEPS = 20


def main():
    args = _arguments.parse(__doc__, rounds=5)
    found = measure(args.rounds)
    base = found["plain"]
    for row in found.values():
        row["time ratio"] = round(row["ms"] / base["ms"], 2)
        row["memory ratio"] = round(row["kilobytes"] / base["kilobytes"], 2)
    print(f"{'':28}{'ms':>9}{'ratio':>8}{'kB':>10}{'ratio':>8}")
    for name, row in found.items():
        numbers = (row[key] for key in ("ms", "time ratio", "kilobytes", "memory ratio"))
        print("{:28}{:9.2f}{:8.2f}{:10.0f}{:8.2f}".format(name, *numbers))
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"threads": args.threads, "steps": STEPS, "estimators": found}, file, indent=1)


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds and temporary kilobytes of every estimator."""
    import jax

    import nestax as nx

    meta = nx.meta
    keep, some = meta.TruncatedBackprop(nx.KeepAll()), meta.CoordinateSum(256)
    estimators = {
        "plain": meta.TruncatedBackprop(),
        "plain, keep all": keep,
        "plain, coordinates": some,
        "first order": meta.AdaptedGradient(),
        "first order, coordinates": meta.AdaptedGradient(estimator=some),
        "second order": meta.AdaptedGradient(order=2, query="same"),
        "second order, keep all": meta.AdaptedGradient(order=2, query="same", estimator=keep),
    }
    optimizer = nx.learned.preset("rnnprop-m-l2o", key=jax.random.key(0))
    problem = nx.problems.uniform_lasso(jax.random.key(1))
    players = problem.init(jax.random.key(2))
    batch = meta.Batch.of(problem, (players, optimizer.init_update(players)), STEPS, jax.random.key(3))
    programs, found = {}, {}
    for name, estimator in estimators.items():
        gradient = jax.jit(lambda o, b, estimator=estimator: estimator(o, b, meta.Sum())[1])
        programs[name] = gradient.lower(optimizer, batch).compile()
        memory = programs[name].memory_analysis()
        found[name] = {"ms": float("inf"), "kilobytes": memory.temp_size_in_bytes / 1e3}
    for _ in range(rounds + 1):  # the first one warms up
        for name, program in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(optimizer, batch))
            found[name]["ms"] = min(found[name]["ms"], 1e3 * (time.perf_counter() - started))
    return found


if __name__ == "__main__":
    main()
