"""A learned optimizer as an Optax transformation, in an ordinary Equinox training loop."""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import nestax as nx


def main(steps: int = 500, epochs: int = 100, optimizer: Path | None = None) -> list[float]:
    if optimizer is None:  # none at hand: learn one on the small network of the catalogue
        untrained = nx.learned.preset("rnnprop-stronger-baselines", key=jax.random.key(0))
        problem = nx.catalogue.by_name("digits-mlp")
        learned = nx.meta.train(
            untrained, problem, schedule=[(100, epochs)], key=jax.random.key(1), progress=True
        ).optimizer
    else:
        learned = nx.learned.load(optimizer)
    transformation = learned.as_optax()  # the only line that differs from a loop with `optax.adam(...)`

    digits = nx.data.digits()
    model = eqx.nn.MLP(digits.num_features, digits.num_classes, width_size=20, depth=1, key=jax.random.key(1))
    state = transformation.init(eqx.filter(model, eqx.is_inexact_array))

    def loss(model, inputs, labels):
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(inputs), labels).mean()

    @eqx.filter_jit
    def step(model, state, key):
        batch = jax.random.randint(key, (128,), 0, len(digits), jnp.int32)
        value, gradients = eqx.filter_value_and_grad(loss)(model, digits.inputs[batch], digits.labels[batch])
        updates, state = transformation.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, value

    losses = []
    for i, key in enumerate(jax.random.split(jax.random.key(2), steps)):
        model, state, value = step(model, state, key)
        losses.append(float(value))
        if i % max(1, steps // 10) == 0:
            print(f"step {i:5d}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="steps of the training loop")
    parser.add_argument("--epochs", type=int, default=100, help="meta-training epochs, if no file is given")
    parser.add_argument("--optimizer", type=Path, help="a file of `nestax train` or `nestax.learned.save`")
    main(**vars(parser.parse_args()))
