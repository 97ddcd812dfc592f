"""`nestax evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import nestax as nx

from .._checks import unknown_name
from .._storage import write_atomically, write_json
from ._app import DEFAULT_PROBLEM, Json, Output, Seed, command, new_folder, print_json, show, shows_progress

_FILES = ("evaluation.json", "report.md", "comparison.png")


@command()
def evaluate(
    optimizers: Annotated[
        list[str], typer.Argument(help="Files of learned optimizers, names (tuned by a grid), or name=learning_rate.")
    ],
    problem: Annotated[
        str, typer.Option(help="A name of `nestax problems`, or module:Name, a problem or family of yours.")
    ] = DEFAULT_PROBLEM,
    steps: Annotated[int, typer.Option(min=1, help="Updates per run.")] = 500,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs per optimizer and problem, alike for all. Default 5, of a family 1.")
    ] = None,
    num_problems: Annotated[
        int | None, typer.Option("--problems", min=1, help="Problems drawn of a family. Default 32.")
    ] = None,
    tuning_seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs per learning rate and problem, on other seeds. Default 3, or 1.")
    ] = None,
    seed: Seed = 0,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Compare optimizers on a problem: table, JSON and plot over steps and over seconds.

    Example: `nestax evaluate runs/mine/optimizer.safetensors adam rmsprop sgd=3 --steps 2000`
    """
    target = nx.catalogue.resolve(problem)
    found = [_contestant(text) for text in optimizers]
    folder = new_folder(output, "evaluate", own=_FILES)
    evaluation_key, tuning_key = jax.random.split(jax.random.key(seed))
    contestants = {}
    for i, (name, optimizer) in enumerate(found):
        if optimizer is None:
            key = jax.random.fold_in(tuning_key, i)
            make, grid = nx.evaluation.CLASSICAL[name]
            tuning = nx.evaluation.tune(
                target, make, grid, num_steps=steps, num_problems=num_problems, num_seeds=tuning_seeds, key=key
            )
            rate = tuning.best()["learning_rate"]
            name, optimizer = f"{name} {rate:g}", make(rate)
        contestants[name] = optimizer
    result = nx.evaluation.evaluate(
        target,
        contestants,
        num_steps=steps,
        key=evaluation_key,
        num_problems=num_problems,
        num_seeds=seeds,
        progress=shows_progress(as_json),
    )
    value = {"problem": problem, "seed": seed, **{k: v for k, v in result.to_json().items() if k != "problem"}}
    write_json(folder / _FILES[0], value)
    write_atomically(folder / _FILES[1], f"# {problem}\n\n{nx.evaluation.markdown(result)}".encode())
    nx.evaluation.plot(result, folder / _FILES[2], problem)
    if as_json:
        print_json({**value, "folder": str(folder)})
        return
    show(nx.evaluation.table(result), f"JSON, report and plot: {folder}")


def _contestant(text: str) -> tuple[str, Any]:
    """One optimizer, by the name under which it is reported; `None` for one that is to be tuned."""
    if text.endswith(".safetensors"):
        return f"{Path(text).parent.name}/{Path(text).stem}", nx.learned.load(text)
    name, _, rate = text.partition("=")
    if name not in nx.evaluation.CLASSICAL:
        raise unknown_name("optimizer", name, nx.evaluation.CLASSICAL, "or a .safetensors file of a learned one")
    return (
        (f"{name} {parse_rate(text):g}", nx.evaluation.CLASSICAL[name][0](parse_rate(text))) if rate else (name, None)
    )


def parse_rate(text: str) -> float:
    """The learning rate of `name=learning_rate`."""
    name, _, rate = text.partition("=")
    try:
        value = float(rate)
        if not 0 < value < float("inf"):
            raise ValueError
    except ValueError:
        raise ValueError(f"'{text}': the learning rate must be a positive number, as in {name}=0.01.") from None
    return value


def optimizer_of(text: str) -> tuple[str, Any]:
    """An optimizer that needs no tuning: a file, or name=learning_rate."""
    name, optimizer = _contestant(text)
    if optimizer is None:
        raise ValueError(f"Say the learning rate of the run: {name}=0.01.")
    return name, optimizer
