"""Thousands of similar problems of your own: write the family, learn an optimizer for it, solve new members."""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import nestax as nx

TIMES = jnp.linspace(0.0, 5.0, 50)


class DecayFit(nx.AbstractDeterministicProblem):
    """Fits amplitude, rate and offset of an exponential decay to noisy measurements (nonlinear least squares)."""

    values: Float[Array, " times"]  # an array leaf: `vmap` over it is a batch of problems

    def init(self, key):
        return (jax.random.normal(key, (3,)),)

    def losses(self, players, sample):
        amplitude, log_rate, offset = players[0]
        model = amplitude * jnp.exp(-jnp.exp(log_rate) * TIMES) + offset
        return (jnp.mean((model - self.values) ** 2),)


class Decays(nx.AbstractFamily):
    """The distribution of problems: a pure function of a key."""

    noise: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.02)

    def __call__(self, key):
        keys = jax.random.split(key, 4)
        amplitude = jax.random.uniform(keys[0], (), minval=0.5, maxval=3.0)
        rate = jnp.exp(jax.random.uniform(keys[1], (), minval=-1.0, maxval=1.0))
        offset = jax.random.normal(keys[2], ())
        noise = self.noise * jax.random.normal(keys[3], TIMES.shape)
        return DecayFit(amplitude * jnp.exp(-rate * TIMES) + offset + noise)


def main(epochs: int = 300, steps: int = 100, problems: int = 1_000):
    untrained = nx.learned.preset("rnnprop", key=jax.random.key(0))
    log_loss = nx.meta.SumLog(eps=1e-4)  # every order of magnitude counts alike, down to about the noise
    training = nx.meta.train(
        untrained,
        Decays(),
        key=jax.random.key(1),
        schedule=[(100, epochs)],
        num_tasks=16,
        meta_loss=log_loss,
        progress=True,
    )

    def final_loss(optimizer, key):
        task_key, run_key = jax.random.split(key)
        return nx.solve(Decays()(task_key), optimizer, num_steps=steps, key=run_key, throw=False).losses[-1, 0]

    def median(optimizer, seed):
        return float(jnp.median(jax.vmap(lambda k: final_loss(optimizer, k))(jax.random.split(seed, problems))))

    tuning, test = jax.random.split(jax.random.key(1))  # Adam's rate is tuned on other problems than the test ones
    rate = min((0.01, 0.03, 0.1, 0.3, 1.0), key=lambda r: median(nx.optimizers.adam(r), tuning))
    out = {"learned": median(training.optimizer, test), f"adam {rate:g}": median(nx.optimizers.adam(rate), test)}
    for name, value in out.items():
        print(f"{name:10s} median loss of {problems} new problems after {steps} steps: {value:.2e}")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=300, help="meta-training epochs of 100 steps, 16 problems each")
    parser.add_argument("--steps", type=int, default=100, help="steps on every new problem")
    parser.add_argument("--problems", type=int, default=1_000, help="new problems to solve")
    main(**vars(parser.parse_args()))
