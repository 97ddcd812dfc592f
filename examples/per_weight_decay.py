"""One weight decay per weight, tuned by hypergradients while the network trains, beside one decay for all."""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.figure

import nestax as nx


def main(outer_steps: int = 1_000, inner_steps: int = 5, output: str | None = None):
    train, valid, test = (nx.data.digits().take(slice(a, b)) for a, b in ((0, 200), (200, 400), (1_400, 1_797)))
    mlp, key = nx.networks.MLP((32,)), jax.random.key(0)
    adam = nx.optimizers.adam(0.01)
    rmsprop = nx.optimizers.rmsprop(0.01, 0.99, 1e-16)  # hypergradients of single weights may be tiny

    runs = {}
    for per in ("weight", "all"):
        problem = nx.problems.NestedClassifier(train, valid, mlp, nx.hyperparameters.WeightDecay(per))
        runs[per] = nx.hyper.tune(
            problem,
            optimizer=adam,
            outer_optimizer=rmsprop,
            num_outer_steps=outer_steps,
            num_inner_steps=inner_steps,
            record_every=10,
            evaluate=lambda players, p=problem: {"test_accuracy": p.accuracy(players[1], test)},
            key=key,
        )

    # One decay for all by a grid: as many training steps for each, the best by its validation loss.
    problem = nx.problems.NestedClassifier(train, valid, mlp, nx.hyperparameters.WeightDecay("all"))
    best = jnp.inf
    for decay in range(-10, 0):
        inner = nx.InnerProblem(problem, jnp.asarray(float(decay)))
        trained = nx.solve(inner, adam, num_steps=outer_steps * inner_steps, key=key, record_every=outer_steps // 2)
        best = min(best, float(problem.full_loss(trained.players[0], valid)))

    for name, tuning in runs.items():
        last = tuning.history[-1]
        print(f"a decay for {name:6}: validation loss {last['outer_loss']:.4f}, test {last['test_accuracy']:.3f}")
    print(f"one decay by a grid: validation loss {best:.4f}")
    if output:
        plot({f"a decay per {k}" if k == "weight" else "one decay": v.history for k, v in runs.items()}, best, output)
    return runs, best


def plot(histories, best, path):
    figure = matplotlib.figure.Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, history in histories.items():
        axes.plot([r["step"] for r in history], [r["outer_loss"] for r in history], label=f"{name}, by hypergradients")
    axes.axhline(best, color="gray", linestyle="--", label="one decay, the best of a grid")
    axes.set_yscale("log")
    axes.set_xlabel("outer step")
    axes.set_ylabel("validation loss")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outer-steps", type=int, default=1_000, help="updates of the hyperparameters")
    parser.add_argument("--inner-steps", type=int, default=5, help="updates of the weights before each")
    parser.add_argument("--output", default=None, help="where to write the plot")
    main(**vars(parser.parse_args()))
