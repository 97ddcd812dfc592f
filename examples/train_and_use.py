"""Learn an optimizer on a small network, keep it in a file, and compare it with tuned classical optimizers."""

import argparse
from pathlib import Path

import jax

import nestax as nx

CLASSICAL = ("adam", "rmsprop", "nesterov", "sgd")


def main(epochs: int = 100, steps: int = 500, seeds: int = 5, output: Path = Path("runs/example"), rivals=CLASSICAL):
    problem = nx.catalogue.by_name("digits-mlp")  # embedded data, no download

    # Train: `epochs` optimizations of 100 steps from fresh initial points, one meta-update every 20 steps.
    untrained = nx.learned.preset("rnnprop-stronger-baselines", key=jax.random.key(0))
    training = nx.meta.train(untrained, problem, schedule=[(100, epochs)], key=jax.random.key(1), progress=True)
    output.mkdir(parents=True, exist_ok=True)
    nx.learned.save(output / "rnnprop.safetensors", training.optimizer)

    # Compare, on initial points that neither training nor tuning has seen.
    contestants: dict[str, nx.AbstractOptimizer] = {"rnnprop": nx.learned.load(output / "rnnprop.safetensors")}
    for name in rivals:
        make, grid = nx.evaluation.CLASSICAL[name]
        best = nx.evaluation.tune(problem, make, grid, num_steps=steps, key=jax.random.key(1)).best()
        contestants[f"{name} {best['learning_rate']:g}"] = make(**best)
    evaluation = nx.evaluation.evaluate(
        problem, contestants, num_steps=steps, num_seeds=seeds, key=jax.random.key(2), progress=True
    )
    print(nx.evaluation.markdown(evaluation))
    nx.evaluation.plot(evaluation, output / "comparison.png", "digits-mlp")
    return evaluation


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100, help="optimizations to train on")
    parser.add_argument("--steps", type=int, default=500, help="steps of the comparison")
    parser.add_argument("--seeds", type=int, default=5, help="initial points of the comparison")
    parser.add_argument("--output", type=Path, default=Path("runs/example"), help="folder to write to")
    main(**vars(parser.parse_args()))
