"""`nestax adapt`."""

import math
from pathlib import Path
from typing import Annotated

import jax
import typer

import nestax as nx

from .._rollout import NumericalError
from .._storage import write_json
from ._app import Json, Output, Seed, command, escaped, new_folder, print_json, rate_option, show


@command()
def adapt(
    run: Annotated[
        str, typer.Argument(help="A folder of `nestax train`, a .safetensors file, or a name of `nestax zoo`.")
    ],
    problem: Annotated[str, typer.Option(help="What to adapt to: a name of `nestax problems`, or module:Name.")],
    steps: Annotated[int, typer.Option(min=0, help="Meta-updates.")] = 5,
    unroll: Annotated[int, typer.Option(min=1, help="Steps per meta-update.")] = 20,
    learning_rate: Annotated[float, rate_option("Of the meta-optimizer, Adam.")] = 1e-3,
    horizon: Annotated[int | None, typer.Option(min=1, help="Steps of one run. Default: all in one run.")] = None,
    test_steps: Annotated[int, typer.Option(min=1, help="Updates of the runs before and after.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Such runs.")] = 5,
    seed: Seed = 0,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Adapt a trained learned optimizer to a problem by a few meta-updates, and say how it does before and after.

    Where the adaptation fails, nothing is written, and the exit status is 1.

    Example: `nestax adapt runs/mine --problem spirals-mlp --steps 5`
    """
    import optax

    optimizer = _load(run)
    target = nx.as_family(nx.catalogue.resolve(problem))
    keys = jax.random.split(jax.random.key(seed), 2)
    adaptation = nx.meta.adapt(
        optimizer,
        target,
        key=keys[0],
        num_steps=steps,
        unroll=unroll,
        horizon=horizon,
        meta_optimizer=optax.adam(learning_rate),
    )
    if adaptation.result != nx.RESULTS.successful:
        raise NumericalError(f"{nx.RESULTS[adaptation.result]} ({adaptation.message}.)")
    losses = {
        name: _log_loss(target, one, test_steps, seeds, keys[1])
        for name, one in (("before", optimizer), ("after", adaptation.optimizer))
    }
    folder = new_folder(output, "adapt")
    nx.learned.save(folder / "optimizer.safetensors", adaptation.optimizer)
    value = {
        "folder": str(folder),
        "optimizer": str(folder / "optimizer.safetensors"),
        "from": run,
        "problem": problem,
        "steps": steps,
        "unroll": unroll,
        "test_steps": test_steps,
        "seed": seed,
        "ln_loss": losses,  # mean, minimum and maximum over runs; null: diverged
    }
    write_json(folder / "adaptation.json", value)
    if as_json:
        print_json(value)
        return
    for name, numbers in losses.items():
        text = "diverged" if None in numbers else "{:.3f} [{:.3f}, {:.3f}]".format(*numbers)
        show(f"{name:>8}  ln loss after {test_steps:,} steps, mean [range]: {escaped(text)}")
    show(f"Adapted optimizer: {escaped(value['optimizer'])}")


def _load(run: str) -> nx.learned.AbstractLearnedOptimizer:
    if run in nx.learned.PRETRAINED or run == "default":
        return nx.learned.pretrained(None if run == "default" else run)
    path = Path(run)
    return nx.learned.load(path / "optimizer.safetensors" if path.is_dir() else path)


def _log_loss(
    target: nx.AbstractFamily, optimizer: nx.learned.AbstractLearnedOptimizer, num_steps: int, runs: int, key: jax.Array
) -> list[float | None]:
    """Mean, minimum and maximum of ln loss after runs from fresh points, of an endless family on a problem each."""
    num_problems, num_seeds = (runs, 1) if target.num is None else (None, runs)
    how = {"num_steps": num_steps, "num_problems": num_problems, "num_seeds": num_seeds}
    found = nx.evaluation.evaluate(target, {"run": optimizer}, key=key, **how).curves["run"].log_loss(num_steps)
    return [round(x, 4) if math.isfinite(x) else None for x in found]
