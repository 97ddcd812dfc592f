"""A sweep over learning rates and seeds in one compiled call: hyperparameters are array leaves, so `vmap` sweeps."""

import argparse

import jax
import jax.numpy as jnp

import nestax as nx


def main(steps: int = 1_000, seeds: int = 8):
    problem = nx.problems.Rosenbrock()
    rates = jnp.array([1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2])

    def run(rate, key):
        out = nx.solve(problem, nx.optimizers.momentum(rate), num_steps=steps, key=key, throw=False)
        return out.losses[-1, 0], out.num_steps, out.result == nx.RESULTS.successful

    keys = jax.random.split(jax.random.key(0), seeds)
    over_seeds = jax.vmap(run, in_axes=(None, 0))
    losses, num_steps, successful = jax.vmap(over_seeds, in_axes=(0, None))(rates, keys)

    # A run that diverges does not touch the others: it stays at its last finite iterate and says so.
    for i, rate in enumerate(rates):
        fine = losses[i][successful[i]]
        median = f"median loss {jnp.median(fine):.2e}" if fine.size else "no run stayed finite"
        print(f"learning rate {rate:.0e}: {median}, {seeds - fine.size} of {seeds} diverged")
    return losses, num_steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000, help="steps per run")
    parser.add_argument("--seeds", type=int, default=8, help="runs per learning rate")
    main(**vars(parser.parse_args()))
