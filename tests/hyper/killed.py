"""A tuning that `test_tune.py` runs in its own process, in order to kill it."""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

import nestax as nx


class Noisy(nx.AbstractNested):
    """Quadratic, with noise by key in both losses: every sample matters, so a lost or repeated one shows."""

    def init(self, key):
        return jnp.ones(3), jax.random.normal(key, (3,))

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.sum((weights - 2 + 0.1 * jax.random.normal(sample, (3,))) ** 2)

    def inner_loss(self, hyperparameters, weights, sample):
        noise = 0.1 * jax.random.normal(sample, (3,))
        return jnp.sum((weights - hyperparameters + noise) ** 2) + 0.1 * jnp.sum(weights**4)


def settings() -> dict[str, Any]:
    return {
        "problem": Noisy(),
        "optimizer": nx.optimizers.adam(0.05),
        "outer_optimizer": optax.rmsprop(0.05),
        "method": nx.hyper.Implicit(nx.hyper.CG(2, warm_start=True)),
        "num_outer_steps": 12,
        "num_inner_steps": 3,
        "record_every": 2,
        "key": jax.random.key(5),
    }


def main(folder: str, pause: float) -> None:
    def callback(record: dict) -> None:
        print(record["record"], flush=True)
        time.sleep(pause)  # so that the kill finds it at work

    nx.hyper.tune(**settings(), run=folder, resume=True, checkpoint_seconds=0.0, callback=callback)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
