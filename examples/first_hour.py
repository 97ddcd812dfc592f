"""From a CSV file of yours to a trained optimizer under a guard, a table, a plot, and penalties by hypergradients.

Any file will do with numbers in its columns, names in its first line, and one of two classes in the column `--label`.
Without a file, scikit-learn's breast cancer data are written to one first.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

import nestax as nx


def main(
    csv: Path | None = None,
    label: str = "class",
    steps: int = 200,
    problems: int = 16,
    output: Path = Path("runs/first-hour"),
):
    output.mkdir(parents=True, exist_ok=True)
    data = nx.data.read_table(csv or example_file(output / "cancer.csv"), label)  # columns are standardized
    x, y = data.inputs, data.labels.astype(jnp.float32)

    # 1. A family of problems: a small network for 100 rows at random, as many sites would train one on their own.
    def site(key):
        rows, first, last = jax.random.split(key, 3)
        chosen = jax.random.randint(rows, (100,), 0, len(x))
        params = {
            "first": jax.random.normal(first, (x.shape[1], 8)) / x.shape[1] ** 0.5,
            "bias": jnp.zeros(8),
            "last": jax.random.normal(last, (8,)) / 8**0.5,
        }
        return nx.problems.FromLoss(network_loss, params, data=(x[chosen], y[chosen]))

    # 2. A trained optimizer that comes with the package, guarded by Adam, whose rate is tuned on other sites.
    make, grid = nx.evaluation.CLASSICAL["adam"]
    best = nx.evaluation.tune(site, make, grid, num_steps=steps, num_problems=4, key=jax.random.key(0)).best()
    adam = make(**best)
    learned = nx.learned.pretrained()
    guard = nx.guards.safeguard(learned, adam)

    # 3. A table at equal steps, gradients and seconds; and a plot.
    contestants = {f"adam {best['learning_rate']:g}": adam, "learned": learned, "guarded": guard}
    evaluation = nx.evaluation.evaluate(
        site, contestants, num_steps=steps, num_problems=problems, key=jax.random.key(1), progress=True
    )
    print(nx.evaluation.markdown(evaluation))
    nx.evaluation.plot(evaluation, output / "comparison.png", "small networks for 100 rows each")

    # 4. A penalty for every column, by the loss on rows that are not trained on; first the check of its hypergradient.
    half = len(x) // 2
    nested = Penalties(((x[:half], y[:half]), (x[half:], y[half:])))
    start = nested.init(jax.random.key(0))
    inner = nx.InnerProblem(nested, start[0])
    trained = nx.solve(inner, adam, num_steps=1_000, players=start[1:], key=jax.random.key(2))
    check = nx.hyper.check_hypergradient(
        nested, (start[0], trained.players[0]), optimizer=optax.sgd(0.5), num_steps=3_000
    )
    print(f"the hypergradient: {check}")
    tuning = nx.hyper.tune(
        nested,
        optimizer=adam,
        outer_optimizer=optax.adam(0.05),
        num_outer_steps=steps,
        num_inner_steps=20,
        players=(start[0], trained.players[0]),
        record_every=10,
        key=jax.random.key(3),
    )
    losses = [tuning.history[i]["outer_loss"] for i in (0, -1)]
    print(f"validation loss with one penalty for all {losses[0]:.4f}, with a tuned one per column {losses[1]:.4f}")
    return evaluation, check, losses


def example_file(path: Path) -> Path:
    inputs, labels = sklearn.datasets.load_breast_cancer(return_X_y=True)
    names = ",".join([*(f"column {i}" for i in range(inputs.shape[1])), "class"])
    np.savetxt(path, np.column_stack([inputs, labels]), delimiter=",", header=names, comments="", fmt="%g")
    return path


def cross_entropy(logits, labels):
    return jnp.mean(jnp.logaddexp(0.0, logits) - labels * logits)


def network_loss(params, batch):
    inputs, labels = batch
    return cross_entropy(jnp.tanh(inputs @ params["first"] + params["bias"]) @ params["last"], labels)


class Penalties(nx.AbstractNested, nx.AbstractDeterministicProblem):
    """Logistic regression with the logarithm of a penalty for every column."""

    parts: tuple

    def init(self, key):
        columns = self.parts[0][0].shape[1]
        return jnp.full(columns, -5.0), jnp.zeros(columns)

    def outer_loss(self, hyperparameters, weights, sample):
        inputs, labels = self.parts[1]
        return cross_entropy(inputs @ weights, labels)

    def inner_loss(self, hyperparameters, weights, sample):
        inputs, labels = self.parts[0]
        return cross_entropy(inputs @ weights, labels) + jnp.sum(jnp.exp(hyperparameters) * weights**2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=None, help="your file; default: an example")
    parser.add_argument("--label", default="class", help="its column of classes, of which there are two")
    parser.add_argument("--steps", type=int, default=200, help="steps of the comparison, and of the penalties")
    parser.add_argument("--problems", type=int, default=16, help="problems of the comparison")
    parser.add_argument("--output", type=Path, default=Path("runs/first-hour"), help="folder to write to")
    main(**vars(parser.parse_args()))
