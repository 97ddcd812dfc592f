"""`nestax demo` and `nestax reproduce`."""

from pathlib import Path
from typing import Annotated, Any

import typer

import nestax as nx

from .._folder import check_writable
from .._storage import write_json
from ._app import (
    Coordinator,
    Distributed,
    JoinTimeout,
    Json,
    NumProcesses,
    Output,
    ProcessId,
    Seed,
    command,
    escaped,
    join_processes,
    naming_resumption,
    new_folder,
    new_table,
    print_json,
    show,
    shows_progress,
)


@command()
def demo(output: Output = None, seed: Seed = 0, as_json: Json = False) -> None:
    """Learn an optimizer on real data, guard it, and compare it with tuned classical ones, in about a minute.

    Trains a small RNNprop on a small network on scikit-learn's digits (no download), then solves the same problem from
    initial points that it has not seen, with and without the recommended guard, beside Adam, RMSprop, Nesterov momentum
    and SGD with tuned learning rates.

    Example: `nestax demo --output runs/demo`
    """
    folder = new_folder(None, "demo") if output is None else output
    check_writable(folder, "--output")
    with naming_resumption(f"nestax demo --seed {seed} --output {folder}"):
        result = nx.recipes.reproduce(
            nx.recipes.by_name("l2o/quickstart"), "laptop", seed, folder, progress=shows_progress(as_json)
        )
    if as_json:
        print_json({**_summary(result), "folder": str(folder)})
        return
    metrics = result["metrics"]
    columns = {"optimizer": "left", "ln loss": "right", "min": "right", "max": "right"}
    costs = {"gradients": "right", "ms/step": "right", "seconds": "right"}
    for mark, rows in metrics["ln_loss"].items():
        table = new_table(f"after {int(mark):,} steps", columns | costs)
        for name, values in sorted(rows.items(), key=lambda row: row[1][0] if row[1][0] is not None else float("inf")):
            tuning = metrics["tuning"].get(name)
            label = name if tuning is None else f"{name} {tuning['best'][mark]:g}"
            entry = metrics["optimizers"][label]
            seconds = entry["seconds_per_step"]
            gradients = f"{int(mark) * entry['gradients_per_step']:,.0f}"
            numbers = (gradients, f"{1e3 * seconds:.3f}", f"{int(mark) * seconds:.2f}")
            table.add_row(label, *("diverged" if v is None else f"{v:.2f}" for v in values), *numbers)
        show(table)
    seconds = {name: entry["seconds_per_step"] for name, entry in metrics["optimizers"].items()}
    ratio = seconds["learned"] / next(value for name, value in seconds.items() if name.startswith("adam "))
    show(
        f"Mean, minimum and maximum over {result['protocol']['num_seeds']} fresh initial points. A step of the "
        f"learned optimizer costs {ratio:.1f} steps of Adam here: see the plot over gradients and over seconds."
    )
    _show_claims(result)
    place = escaped(str(folder))
    show(
        f"[bold]{result['seconds']:.0f} s.[/] Optimizer, plot and report: {place}",
        "\nNext, on a table of your own (CSV or .npz), with a trained optimizer that comes with nestax:",
        "  nestax evaluate --pretrained default --guard adam --data table.csv --label COLUMN",
        "or with the one that you have just trained:",
        f"  nestax evaluate {place}/optimizer.safetensors adam --guard adam --steps 1000",
    )


@command()
def reproduce(
    name: Annotated[str | None, typer.Argument(help="A recipe; see `--list`.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the recipes and their claims.")] = False,
    scale: Annotated[str, typer.Option(help="smoke (seconds), laptop (minutes to an hour or so) or paper.")] = "laptop",
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option(help="Folder to write to. Default: runs/NAME-SCALE-SEED.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Also write the result to this folder as NAME/SCALE.json.")
    ] = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    join_timeout: JoinTimeout = 300.0,
    as_json: Json = False,
) -> None:
    """Rerun a published table or figure and check its claims. Trainings inside go on where they were interrupted.

    With `--distributed` or `--coordinator` the trials are shared by several processes, which see one folder.

    Example: `nestax reproduce l2o/quickstart --scale laptop --seed 0`
    """
    if list_all or name is None:
        _list_recipes(as_json)
        return
    recipe = nx.recipes.by_name(name)
    processes = join_processes(distributed, coordinator, num_processes, process_id, join_timeout)
    folder = output or Path("runs") / f"{name.replace('/', '-')}-{scale}-{seed}"
    check_writable(folder, "--output")
    if record is not None:
        check_writable(record, "--record")
    again = f"nestax reproduce {name} --scale {scale} --seed {seed} --output {folder}"
    with naming_resumption(again if record is None else f"{again} --record {record}"):
        result = nx.recipes.reproduce(recipe, scale, seed, folder, progress=shows_progress(as_json))
    if not processes.is_first:
        return
    if record is not None:
        write_json(record / name / f"{scale}.json", result)
    if as_json:
        print_json(_summary(result))
        return
    _show_claims(result)
    show(f"{result['seconds']:.0f} s. Report and plots: {escaped(str(folder))}")


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("recipe", "scale", "seed", "claims", "metrics")}


def _show_claims(result: dict[str, Any]) -> None:
    title = f"{result['recipe']}, {result['scale']} scale, seed {result['seed']}"
    table = new_table(title, dict.fromkeys(("claim", "", "published", "here"), "left"))
    for claim in result["claims"]:
        color = {"holds": "green", "does not hold": "red"}.get(claim["status"], "yellow")
        verdict = f"[{color}]{claim['status']}[/]"
        cells = (f"{claim['id']}: {claim['statement']}", claim["published"], str(claim["value"]))
        statement, published, value = map(escaped, cells)
        table.add_row(statement, verdict, published, value)
    show(table)


def _list_recipes(as_json: bool) -> None:
    listed = [
        {
            "recipe": recipe.name,
            "title": recipe.title,
            "source": recipe.source,
            "scales": list(recipe.scales),
            "claims": {claim.id: claim.statement for claim in recipe.claims},
        }
        for recipe in nx.recipes.RECIPES.values()
    ]
    if as_json:
        print_json(listed)
        return
    for entry in listed:
        show(f"[bold]{entry['recipe']}[/]  {escaped(entry['title'])} ({escaped(entry['source'])})")
        show(*(f"  {claim}: {escaped(statement)}" for claim, statement in entry["claims"].items()))
