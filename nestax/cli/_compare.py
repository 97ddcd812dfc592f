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
_RIVALS = ("adam", "rmsprop", "nesterov")


@command()
def evaluate(
    optimizers: Annotated[
        list[str] | None,
        typer.Argument(help="Files of learned optimizers, names (tuned by a grid), or name=learning_rate."),
    ] = None,
    pretrained: Annotated[
        list[str] | None,
        typer.Option(help="A trained optimizer that comes with nestax, or `default`; may be given several times."),
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(help="Also every learned optimizer under a guard with this fallback: adam (tuned), or adam=0.01."),
    ] = None,
    problem: Annotated[
        str, typer.Option(help="A name of `nestax problems`, or module:Name, a problem or family of yours.")
    ] = DEFAULT_PROBLEM,
    data: Annotated[
        Path | None, typer.Option(help="Or a CSV or .npz file of yours, for a network of 20 sigmoid units to classify.")
    ] = None,
    label: Annotated[str, typer.Option(help="The column of --data that holds the classes.")] = "label",
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

    Without any rival, those that come with nestax are compared with tuned Adam, RMSprop and Nesterov momentum.

    Example: `nestax evaluate --pretrained default --guard adam --data flowers.csv --label kind --steps 1000`
    """
    if data is not None and problem != DEFAULT_PROBLEM:
        raise ValueError("Give --data or --problem, not both.")
    ours = [nx.learned.PRETRAINED[0] if name == "default" else name for name in pretrained or ()]
    rivals = list(optimizers or (_RIVALS if ours else ()))
    if not rivals:
        raise ValueError("Say what to compare: files, names such as adam, or --pretrained default.")
    found = [*((name, nx.learned.pretrained(name)) for name in ours), *map(_contestant, rivals)]
    if guard is not None:
        found = _with_fallback(found, guard, steps)
    target = nx.catalogue.resolve(problem) if data is None else _classify(data, label)
    problem = problem if data is None else str(data)
    folder = new_folder(output, "evaluate", own=_FILES)
    evaluation_key, tuning_key = jax.random.split(jax.random.key(seed))
    tuned = {}
    for i, (name, optimizer) in enumerate(found):
        if optimizer is None:
            key = jax.random.fold_in(tuning_key, i)
            make, grid = nx.evaluation.CLASSICAL[name]
            tuning = nx.evaluation.tune(
                target, make, grid, num_steps=steps, num_problems=num_problems, num_seeds=tuning_seeds, key=key
            )
            rate = tuning.best()["learning_rate"]
            tuned[name] = f"{name} {rate:g}", make(rate)
    contestants = dict(tuned.get(name, (name, optimizer)) for name, optimizer in found)
    if guard is not None:
        contestants |= _guarded(contestants, *(tuned.get(guard) or _contestant(guard)))
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


def _classify(path: Path, label: str) -> nx.problems.Classifier:
    dataset = nx.data.read_table(path, label)
    return nx.problems.Classifier(dataset, nx.networks.MLP(), batch_size=min(128, len(dataset)))


def _with_fallback(found: list[tuple[str, Any]], guard: str, steps: int) -> list[tuple[str, Any]]:
    """The contestants, with the fallback of a guard among them."""
    name, optimizer = _contestant(guard)
    if not any(isinstance(o, nx.learned.AbstractLearnedOptimizer) for _, o in found):
        raise ValueError("`--guard` guards learned optimizers, and there is none: add --pretrained default, or a file.")
    per_block = nx.guards.Blocks().num_steps
    if steps % per_block:
        raise ValueError(f"A guard decides every {per_block} updates, so `--steps` must be a multiple; got {steps}.")
    return found if name in dict(found) else [*found, (name, optimizer)]


def _guarded(contestants: dict[str, Any], fallback: str, optimizer: Any) -> dict[str, Any]:
    """Every learned optimizer under the guard to recommend."""
    return {
        f"{name}, guarded by {fallback}": nx.guards.safeguard(o, optimizer)
        for name, o in contestants.items()
        if isinstance(o, nx.learned.AbstractLearnedOptimizer)
    }


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
