"""A training that `test_train.py` runs in its own process, in order to kill it."""

import sys
import time

import jax
import jax.numpy as jnp

import nestax as nx


def main(folder: str, pause: float) -> None:
    problem = nx.problems.random_quadratic(jax.random.key(1), dim=4, condition_number=10.0)
    optimizer = nx.learned.RNNprop(hidden_sizes=(4,), projection_size=3, key=jax.random.key(0))

    def callback(record: dict) -> None:
        print(record["epoch"], flush=True)
        time.sleep(pause)  # so that the kill finds it at work

    nx.meta.train(
        optimizer,
        problem,
        key=jax.random.key(0),
        schedule=[(10, 6), (20, 6)],
        unroll=5,
        validation=nx.meta.Validation(every=2, num_runs=2, score=nx.measures.TrailingLoss(3)),
        run=folder,
        resume=True,
        checkpoint_seconds=0.0,
        callback=callback,
    )


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", False)
    assert jnp.zeros(()).dtype == jnp.float32
    main(sys.argv[1], float(sys.argv[2]))
