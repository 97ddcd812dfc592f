"""Cost of a ten-step Lyapunov exponent of a GAN with a million parameters: time and memory beside plain simulation.

    python -m benchmarks.bench_lyapunov [--threads 1|2] [--json PATH] [--rounds 3]

The game is `MixtureGAN` with multilayer perceptrons (two losses, 10^6 parameters at the default width), played by
simultaneous gradient descent, ten steps, float32, batches of 64. Measured in one process, each
compiled before: ten plain steps; the largest exponent by `Benettin` and by `FiniteTime(PowerIteration(2))`; and the
gradient of the first with respect to the start, with `Segments`. Times are the best of all rounds. "products" is what
the definition counts: evaluations of a step, a product with its Jacobian (or the transpose) as two. Memory is what the
compiled program asks for beside its arguments, as XLA reports it: kept for every step it would be ten times a step's.
"""

import json
import time

from . import _arguments

STEPS = 10


def main():
    args = _arguments.parse(__doc__, rounds=3)
    rows = measure(args.rounds)
    print(f"{'':38s} {'seconds':>8s} {'of simulation':>14s} {'counted':>8s} {'MiB':>8s}")
    for name, row in rows.items():
        if name != "parameters":
            counted = "" if row["counted"] is None else f"{row['counted']:.0f}x"
            print(f"{name:38s} {row['seconds']:8.3f} {row['ratio']:13.1f}x {counted:>8s} {row['mebibytes']:8.0f}")
    print(f"{rows['parameters']:,} parameters, {STEPS} steps")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"threads": args.threads, "steps": STEPS, **rows}, file, indent=1)


def measure(rounds, width=600, batch_size=64):
    import jax

    import nestax as nx
    from nestax import dynamics

    network = nx.networks.MLP((width, width), "relu", init_scale=None)
    generator = nx.networks.MLP((width, width, width), "relu", init_scale=None)
    problem = nx.problems.MixtureGAN("non-saturating", generator, network, batch_size=batch_size)
    optimizer, key = nx.optimizers.sgd(0.1), jax.random.key(0)
    players = problem.init(key)
    dim = sum(x.size for x in jax.tree.leaves(players))

    def simulate(players):
        return nx.solve(problem, optimizer, num_steps=STEPS, key=key, players=players, throw=False).players

    def exponent(definition):
        def largest(players):
            out = dynamics.lyapunov_exponents(
                problem, optimizer, players, num_steps=STEPS, definition=definition, key=key
            )
            return out.exponents[0]

        return largest

    benettin, power = dynamics.Benettin(), dynamics.FiniteTime(dynamics.PowerIteration(2))
    programs = {
        "simulation": (simulate, STEPS),
        "exponent, Benettin": (exponent(benettin), benettin.count_steps(STEPS, 1, dim)),
        "exponent, 2 power iterations": (exponent(power), power.count_steps(STEPS, 1, dim)),
        "gradient of the exponent, Benettin": (jax.grad(exponent(benettin)), None),
    }
    rows: dict = {"parameters": dim}
    for name, (function, counted) in programs.items():
        compiled = jax.jit(function).lower(players).compile()
        memory = compiled.memory_analysis()
        seconds = min(_time(compiled, players) for _ in range(rounds))
        rows[name] = {
            "seconds": seconds,
            "ratio": seconds / (rows["simulation"]["seconds"] if "simulation" in rows else seconds),
            "counted": None if counted is None else counted / STEPS,
            "mebibytes": memory.temp_size_in_bytes / 2**20 if memory is not None else float("nan"),
        }
    return rows


def _time(compiled, players):
    import jax

    started = time.perf_counter()
    jax.block_until_ready(compiled(players))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
