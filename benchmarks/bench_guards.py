"""What a guard costs beside its parts: an update of a guarded optimizer against both optimizers and the losses.

    python -m benchmarks.bench_guards [--threads 1|2] [--json PATH] [--rounds 7]

The parts are run alone in the same process, in alternation with the guard: the learned optimizer, the fallback, and the
validation losses of a block, `num_batches` for each of both candidates. The best of all rounds counts. Ratio: guard
over the sum of its parts; the goal is 1.15.
"""

import json
import time

from . import _arguments

STEPS = 200


def main():
    args = _arguments.parse(__doc__, rounds=7)
    rows = {name: measure(name, args.rounds) for name in ("circles-mlp", "digits-mlp", "mnist-mlp")}
    print(f"{'microseconds per update':24}" + "".join(f"{part:>12}" for part in next(iter(rows.values()))))
    for name, row in rows.items():
        print(f"{name:24}" + "".join(f"{value:12.3g}" for value in row.values()))
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"threads": args.threads, "rows": rows}, file, indent=1)


def measure(name: str, rounds: int) -> dict[str, float]:
    """Microseconds per update of the guard and of its parts, and the ratio."""
    import equinox as eqx
    import jax

    import nestax as nx

    problem = nx.catalogue.by_name(name)
    learned = nx.learned.preset("l2o-dm-stronger-baselines", key=jax.random.key(0))
    fallback = nx.optimizers.decaying_sgd(0.1)
    guard = nx.guards.LossGuard(learned, fallback)
    key = jax.random.key(1)

    def runner(optimizer):
        calls = STEPS // optimizer.updates_per_step
        players = problem.init(key)
        carry = (players, optimizer.init(problem, players, key))
        drawn = problem.samples(key, calls * optimizer.samples_per_step)
        xs = drawn.reshape(calls, optimizer.samples_per_step)
        step = nx.OptimizerStep(problem, optimizer)
        return lambda: nx.rollout(step, carry, xs, throw=False)

    @eqx.filter_jit
    def validation(problem, first, second, keys):
        """The losses that the guard needs in as many updates."""

        def block(_, keys):
            return None, jax.lax.map(
                lambda k: (problem.losses(first, k)[0], problem.losses(second, k)[0]), keys, batch_size=len(keys)
            )

        return jax.lax.scan(block, None, keys)[1]

    keys = jax.random.split(key, STEPS).reshape(-1, guard.rule.num_batches)
    players = problem.init(key), problem.init(jax.random.key(2))
    parts = {
        "guard": runner(guard),
        "learned": runner(learned),
        "fallback": runner(fallback),
        "losses": lambda: validation(problem, *players, keys),
    }
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds + 1):  # the first compiles
        for part, run in parts.items():
            started = time.perf_counter()
            jax.block_until_ready(eqx.filter(run(), eqx.is_array))
            best[part] = min(best[part], 1e6 * (time.perf_counter() - started) / STEPS)
    return {**best, "ratio": best["guard"] / (best["learned"] + best["fallback"] + best["losses"])}


if __name__ == "__main__":
    main()
