"""The command line: parses, calls the library, prints and plots."""

import contextlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import optax
import pooch
import typer
from rich.console import Console
from rich.table import Table

from . import catalogue, dynamics, evaluation, hyper, learned, meta, optimizers, recipes
from ._checks import unknown_name
from ._family import AbstractFamily, FixedProblem
from ._rollout import NumericalError
from ._solve import solve
from ._storage import CheckpointError, read_json, write_atomically, write_json
from ._version import __version__
from .data import DataError

app = typer.Typer(
    name="nestax",
    help="Optimization inside optimization: learn optimizers, use them, compare them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
_out = Console()
_err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, and nothing else, on standard output.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes everything random.")]
Output = Annotated[Path | None, typer.Option(help="Folder to write to. Default: a new one under ./runs.")]

_META_LOSSES = {"sum": meta.Sum, "last": meta.Last, "log": meta.SumLog}


def main() -> None:
    """Entry point. Errors that the user can mend are one line on standard error and exit status 2."""
    _enable_compilation_cache()
    with _clean_errors():
        app()


@contextlib.contextmanager
def _clean_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, CheckpointError, DataError, NumericalError, OSError) as error:
        _err.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted", highlight=False)
        sys.exit(130)


def _enable_compilation_cache() -> None:
    """Compiled programs are kept between calls: compilation is most of what a short command costs."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(pooch.os_cache("nestax")) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _new_folder(name: str) -> Path:
    """`runs/name`, or `runs/name-2` and so on where that exists."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def _shows_progress(as_json: bool) -> bool:
    return not as_json and sys.stderr.isatty()


@app.command()
def demo(output: Output = None, seed: Seed = 0, as_json: Json = False) -> None:
    """Learn an optimizer on real data and compare it with tuned classical ones, in about a minute.

    Trains RNNprop on 100-step runs of a small network on scikit-learn's digits (no download), then solves the same
    problem from initial points that it has not seen, beside Adam, RMSprop, Nesterov momentum and SGD with tuned
    learning rates.

    Example: `nestax demo --output runs/demo`
    """
    folder = output or _new_folder("demo")
    result = recipes.reproduce(
        recipes.by_name("l2o/quickstart"), "laptop", seed, folder, progress=_shows_progress(as_json)
    )
    if as_json:
        _print_json({**_summary(result), "folder": str(folder)})
        return
    metrics = result["metrics"]
    for mark, rows in metrics["ln_loss"].items():
        table = Table(title=f"after {int(mark):,} steps", title_justify="left")
        for column in ("optimizer", "ln loss, mean", "min", "max", "ms/step"):
            table.add_column(column, justify="left" if column == "optimizer" else "right")
        for name, values in sorted(rows.items(), key=lambda row: row[1][0] if row[1][0] is not None else float("inf")):
            label = name if name == "learned" else f"{name} {metrics['tuning'][name]['best'][mark]:g}"
            cost = metrics["evaluation"]["optimizers"][label]["seconds_per_step"]
            table.add_row(label, *("diverged" if v is None else f"{v:.2f}" for v in values), f"{1e3 * cost:.3f}")
        _out.print(table)
    _out.print(
        f"Mean, minimum and maximum over {metrics['evaluation']['num_seeds']} fresh initial points. A step of the "
        f"learned optimizer costs {metrics['cost_in_adam_steps']:g} steps of Adam here: see the plot over seconds.",
        highlight=False,
    )
    _print_claims(result)
    _out.print(f"[bold]{result['seconds']:.0f} s.[/] Optimizer, plot and report: {folder}", highlight=False)


@app.command()
def train(
    problem: Annotated[str, typer.Option(help="What to train on; see `nestax problems`.")] = catalogue.DEFAULT,
    optimizer: Annotated[
        str, typer.Option(help="What to train; see `nestax optimizers`.")
    ] = "rnnprop-stronger-baselines",
    schedule: Annotated[str, typer.Option(help="Stages of steps × epochs, such as 100x40,200x20.")] = "100x100",
    unroll: Annotated[int, typer.Option(help="Steps per truncation; divides every stage's steps.")] = 20,
    num_tasks: Annotated[int, typer.Option(help="Optimizations per meta-update.")] = 1,
    meta_loss: Annotated[str, typer.Option(help="sum, last or log.")] = "sum",
    learning_rate: Annotated[float, typer.Option(help="Of the meta-optimizer, Adam.")] = 1e-3,
    max_coordinates: Annotated[int, typer.Option(help="Coordinates per tensor in the meta-gradient; 0 is all.")] = 256,
    random_scaling: Annotated[
        float, typer.Option(help="ln of the largest random scale; 0 is off, Lv et al. use 3.")
    ] = 0.0,
    convex: Annotated[bool, typer.Option("--convex", help="Add Lv's convex function of 20 variables.")] = False,
    validate_every: Annotated[int, typer.Option(help="Epochs between validations; 0 keeps the last iterate.")] = 0,
    seed: Seed = 0,
    output: Output = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder; needs no other option.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Meta-train a learned optimizer. Ctrl-C stops it cleanly; `--resume` goes on, bit for bit.

    Example: `nestax train --problem digits-mlp --schedule 100x40,200x20,500x8 --meta-loss log --output runs/mine`
    """
    options = {
        "problem": problem,
        "optimizer": optimizer,
        "schedule": schedule,
        "unroll": unroll,
        "num_tasks": num_tasks,
        "meta_loss": meta_loss,
        "learning_rate": learning_rate,
        "max_coordinates": max_coordinates,
        "random_scaling": random_scaling,
        "convex": convex,
        "validate_every": validate_every,
        "seed": seed,
    }
    if resume is not None:
        defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
        given = [name for name, value in options.items() if value != defaults[name]]
        if given or output is not None:
            name = (given or ["output"])[0].replace("_", "-")
            raise ValueError(f"`--resume` takes all settings from the run; leave out --{name}.")
        options = read_json(resume / "config.json").get("config", {}).get("command")
        if not isinstance(options, dict):
            raise CheckpointError(
                f"{resume / 'config.json'}: field 'command' is missing, so `nestax train` did not start it."
            )
    folder = resume or output or _new_folder("train")
    try:
        training = _train(options, folder, resume is not None, _shows_progress(as_json))
    except KeyboardInterrupt:
        _err.print(f"\nStopped. Go on with: nestax train --resume {folder}", highlight=False)
        sys.exit(130)
    records = [r for r in training.history if r["final_loss"] is not None]
    summary = {
        "folder": str(folder),
        "optimizer": str(folder / "optimizer.safetensors"),
        "epochs": len(training.history),
        "skipped_updates": training.num_skipped,
        "final_loss": records[-1]["final_loss"] if records else None,
        "best_validation": min((r["validation"] for r in records if r.get("validation") is not None), default=None),
        "seconds": round(sum(r["seconds"] for r in training.history), 1),
    }
    if as_json:
        _print_json(summary)
        return
    for name, value in summary.items():
        _out.print(f"{name:>16}  {value}", highlight=False)
    _out.print(f"\nUse it: nestax evaluate --problem {options['problem']} {summary['optimizer']} adam", highlight=False)


def _train(options: dict[str, Any], folder: Path, resume: bool, progress: bool) -> meta.MetaTraining:
    if options["meta_loss"] not in _META_LOSSES:
        raise ValueError(f"Unknown meta-loss '{options['meta_loss']}'. Known: {', '.join(_META_LOSSES)}.")
    key = jax.random.key(options["seed"])
    optimizer = learned.preset(options["optimizer"], key=key)
    tasks: AbstractFamily = FixedProblem(catalogue.by_name(options["problem"]))
    if options["random_scaling"] > 0:
        tasks = meta.RandomScaling(tasks, options["random_scaling"])
    if options["convex"]:
        tasks = meta.ConvexCombination(tasks)
    every = options["validate_every"]
    return meta.train(
        optimizer,
        tasks,
        key=key,
        schedule=_parse_schedule(options["schedule"]),
        unroll=options["unroll"],
        num_tasks=options["num_tasks"],
        meta_loss=_META_LOSSES[options["meta_loss"]](),
        estimator=meta.CoordinateSum(options["max_coordinates"] or None),
        meta_optimizer=optax.adam(options["learning_rate"]),
        validation=meta.Validation(every=every) if every else None,
        run=folder,
        resume=resume,
        config={"command": options},
        progress=progress,
    )


def _parse_schedule(text: str) -> list[tuple[int, int]]:
    try:
        return [(int(horizon), int(epochs)) for horizon, epochs in (stage.split("x") for stage in text.split(","))]
    except ValueError:
        raise ValueError(f"`--schedule` is stages of steps x epochs, such as 100x40,200x20; got '{text}'.") from None


@app.command()
def evaluate(
    optimizers: Annotated[
        list[str], typer.Argument(help="Files of learned optimizers, names (tuned by a grid), or name=learning_rate.")
    ],
    problem: Annotated[str, typer.Option(help="What to solve; see `nestax problems`.")] = catalogue.DEFAULT,
    steps: Annotated[int, typer.Option(min=1, help="Updates per run.")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per optimizer, from initial points shared by all.")] = 5,
    tuning_seeds: Annotated[int, typer.Option(min=1, help="Runs per learning rate, on other seeds.")] = 3,
    seed: Seed = 0,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Compare optimizers on a problem: table, JSON and plot over steps and over seconds.

    Example: `nestax evaluate runs/mine/optimizer.safetensors adam rmsprop sgd=3 --steps 2000`
    """
    target = catalogue.by_name(problem)
    evaluation_key, tuning_key = jax.random.split(jax.random.key(seed))
    contestants = {}
    for i, text in enumerate(optimizers):
        contestants |= _contestant(text, target, steps, tuning_seeds, jax.random.fold_in(tuning_key, i))
    result = evaluation.evaluate(
        target, contestants, num_steps=steps, key=evaluation_key, num_seeds=seeds, progress=_shows_progress(as_json)
    )
    folder = output or _new_folder("evaluate")
    value = {"problem": problem, "seed": seed, **{k: v for k, v in result.to_json().items() if k != "problem"}}
    write_json(folder / "evaluation.json", value)
    write_atomically(folder / "report.md", f"# {problem}\n\n{evaluation.markdown(result)}".encode())
    evaluation.plot(result, folder / "comparison.png", problem)
    if as_json:
        _print_json({**value, "folder": str(folder)})
        return
    _out.print(evaluation.table(result))
    _out.print(f"JSON, report and plot: {folder}", highlight=False)


def _contestant(text: str, problem: Any, steps: int, num_seeds: int, key: Any) -> dict[str, Any]:
    """One optimizer, by the name under which it is reported."""
    if text.endswith(".safetensors"):
        return {f"{Path(text).parent.name}/{Path(text).stem}": learned.load(text)}
    name, _, rate = text.partition("=")
    if name not in evaluation.CLASSICAL:
        raise unknown_name("optimizer", name, evaluation.CLASSICAL, ", or a .safetensors file of a learned one")
    make, grid = evaluation.CLASSICAL[name]
    if rate:
        try:
            chosen = float(rate)
        except ValueError:
            raise ValueError(f"'{text}': the learning rate must be a number, as in {name}=0.01.") from None
    else:
        tuning = evaluation.tune(problem, make, grid, num_steps=steps, num_seeds=num_seeds, key=key)
        chosen = tuning.best()["learning_rate"]
    return {f"{name} {chosen:g}": make(chosen)}


@app.command()
def diagnose(
    optimizer: Annotated[str, typer.Argument(help="name=learning_rate, or the file of a learned optimizer.")],
    problem: Annotated[str, typer.Option(help="What is solved; see `nestax problems`.")] = catalogue.DEFAULT,
    after: Annotated[int, typer.Option(min=0, help="Updates before the run is looked at.")] = 1_000,
    steps: Annotated[int, typer.Option(min=1, help="Updates that are followed then.")] = 100,
    seed: Seed = 0,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Say of a run whether it contracts, circles, is chaotic or diverges, along what, and at which learning rate not.

    Example: `nestax diagnose sgd=0.5 --problem digits-mlp`
    """
    if not optimizer.endswith(".safetensors") and "=" not in optimizer:
        raise ValueError(f"Say the learning rate of the run: {optimizer}=0.01.")
    target, key = catalogue.by_name(problem), jax.random.key(seed)
    ((name, method),) = _contestant(optimizer, target, 1, 1, key).items()
    players, state = target.init(key), None
    if after:
        before = solve(target, method, num_steps=after, key=key, progress=_shows_progress(as_json))
        players, state = before.players, before.state
    found = dynamics.diagnose(target, method, players, state=state, num_steps=steps, key=jax.random.fold_in(key, 1))
    folder = output or _new_folder("diagnose")
    found.plot(folder / "diagnosis.png", title=f"{name} on {problem}: {found.verdict}")
    summary = {
        "verdict": found.verdict,
        "exponents": [float(x) for x in found.exponents],
        "eigenvalue": [found.leading.real, found.leading.imag],
        "max_factor": found.max_factor,
        "picture": str(folder / "diagnosis.png"),
    }
    if as_json:
        _print_json(summary)
        return
    _out.print(str(found), highlight=False)
    _out.print(f"Picture: {summary['picture']}", highlight=False)


@app.command()
def tune(
    problem: Annotated[str, typer.Option(help="What to tune; see `nestax problems`.")] = "digits-decay",
    method: Annotated[
        str, typer.Option(help="neumann, cg, identity or unrolled: how the weights' response is differentiated.")
    ] = "neumann",
    terms: Annotated[int, typer.Option(min=1, help="Terms of the series, steps of CG, or unrolled steps.")] = 20,
    outer_steps: Annotated[int, typer.Option(min=1, help="Updates of the hyperparameters.")] = 1_000,
    inner_steps: Annotated[int, typer.Option(min=0, help="Updates of the weights before each of them.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Of the weights: Adam; SGD in unrolled steps.")] = 0.01,
    outer_learning_rate: Annotated[float, typer.Option(help="Of the hyperparameters, RMSprop.")] = 0.01,
    patience: Annotated[int, typer.Option(min=0, help="Stop after so many records (of 10) without a best; 0: no.")] = 0,
    seed: Seed = 0,
    output: Output = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in `--output`, same options.")] = False,
    as_json: Json = False,
) -> None:
    """Tune hyperparameters by hypergradients while the weights train: validation data say how.

    Writes the run, with a plot of validation and training loss, to a folder. Ctrl-C stops it cleanly; the same command
    with `--resume` goes on, bit for bit.

    Example: `nestax tune --problem digits-decay --outer-steps 1000 --output runs/decay`
    """
    methods = {
        "neumann": lambda: hyper.Implicit(hyper.Neumann(terms), residual=False),
        "cg": lambda: hyper.Implicit(hyper.CG(terms), damping=1e-3, residual=False),
        "identity": lambda: hyper.Implicit(hyper.Identity(), residual=False),
        "unrolled": lambda: hyper.Unrolled(optimizers.sgd(learning_rate), terms),
    }
    if method not in methods:
        raise ValueError(f"Unknown method '{method}'. Known: {', '.join(methods)}.")
    if resume and output is None:
        raise ValueError("`--resume` goes on with the run in `--output`; name that folder.")
    nested, test = catalogue.nested_by_name(problem)
    folder = output or _new_folder("tune")
    every = 10 if outer_steps % 10 == 0 else 1
    tuning = hyper.tune(
        nested,
        optimizer=optimizers.adam(learning_rate),
        outer_optimizer=optimizers.rmsprop(outer_learning_rate, 0.99, 1e-16),  # hypergradients may be tiny
        method=methods[method](),
        num_outer_steps=outer_steps,
        num_inner_steps=inner_steps,
        record_every=every,
        evaluate=lambda players: {"test_accuracy": nested.accuracy(players[1], test)},
        patience=patience or None,
        key=jax.random.key(seed),
        run=folder,
        resume=resume,
        config={"command": {"problem": problem}},
        progress=_shows_progress(as_json),
    )
    keys = ("step", "outer_loss", "inner_loss", "inner_gradient_norm", "test_accuracy")
    best = None if tuning.best_record is None else tuning.history[tuning.best_record]
    summary = {"folder": str(folder), "first": tuning.history[0], "best": best, "last": tuning.history[-1]}
    summary |= {k: {name: v[name] for name in keys} for k, v in summary.items() if isinstance(v, dict)}
    if as_json:
        _print_json(summary)
        return
    table = Table(title=catalogue.describe_nested(problem), title_justify="left")
    for column in ("", "outer step", "validation loss", "training loss", "its gradient", "test accuracy"):
        table.add_column(column)
    for name in ("first", "best", "last"):
        row = summary[name] or {}
        table.add_row(name, *(f"{row[k]:.4g}" if isinstance(row.get(k), float | int) else "-" for k in keys))
    _out.print(table)
    _out.print(f"Plot, report and checkpoint: {folder}", highlight=False)


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(help="A recipe; see `--list`.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the recipes and their claims.")] = False,
    scale: Annotated[str, typer.Option(help="smoke (seconds), laptop (minutes to an hour or so) or paper.")] = "laptop",
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option(help="Folder to write to. Default: runs/NAME-SCALE-SEED.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Also write the result to this folder as NAME/SCALE.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rerun a published table or figure and check its claims. Trainings inside go on where they were interrupted.

    Example: `nestax reproduce l2o/quickstart --scale laptop --seed 0`
    """
    if list_all or name is None:
        _list_recipes(as_json)
        return
    recipe = recipes.by_name(name)
    folder = output or Path("runs") / f"{name.replace('/', '-')}-{scale}-{seed}"
    try:
        result = recipes.reproduce(recipe, scale, seed, folder, progress=_shows_progress(as_json))
    except KeyboardInterrupt:
        _err.print("\nStopped. The same command goes on where it was.", highlight=False)
        sys.exit(130)
    if record is not None:
        write_json(record / name / f"{scale}.json", result)
    if as_json:
        _print_json(_summary(result))
        return
    _print_claims(result)
    _out.print(f"{result['seconds']:.0f} s. Report and plots: {folder}", highlight=False)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("recipe", "scale", "seed", "claims", "metrics")}


def _print_claims(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['recipe']}, {result['scale']} scale, seed {result['seed']}", title_justify="left")
    for column in ("claim", "", "published", "here"):
        table.add_column(column)
    for claim in result["claims"]:
        verdict = "[green]holds[/]" if claim["holds"] else "[red]does not hold[/]"
        table.add_row(f"{claim['id']}: {claim['statement']}", verdict, claim["published"], str(claim["value"]))
    _out.print(table)


def _list_recipes(as_json: bool) -> None:
    listed = [
        {
            "recipe": recipe.name,
            "title": recipe.title,
            "source": recipe.source,
            "scales": list(recipe.scales),
            "claims": {claim.id: claim.statement for claim in recipe.claims},
        }
        for recipe in recipes.RECIPES.values()
    ]
    if as_json:
        _print_json(listed)
        return
    for entry in listed:
        _out.print(f"[bold]{entry['recipe']}[/]  {entry['title']} ({entry['source']})", highlight=False)
        for claim, statement in entry["claims"].items():
            _out.print(f"  {claim}: {statement}", highlight=False)


@app.command("problems")
def list_problems(as_json: Json = False) -> None:
    """List the named problems.

    Example: `nestax problems`
    """
    described = {name: catalogue.describe(name) for name in catalogue.names()}
    nested = {name: catalogue.describe_nested(name) for name in catalogue.nested_names()}
    _print_listing({"problem": described, "nested problem, for `tune`": nested}, as_json)


@app.command("optimizers")
def list_optimizers(as_json: Json = False) -> None:
    """List the optimizers: classical ones by name, learned ones by published variant.

    Example: `nestax optimizers`
    """
    classical = {
        name: f"{_title(make)}; learning rates {', '.join(f'{rate:g}' for rate in grid)}"
        for name, (make, grid) in evaluation.CLASSICAL.items()
    }
    variants = {name: source for name, (_, _, source) in learned.PRESETS.items()}
    _print_listing({"classical": classical, "learned": variants}, as_json)


def _title(function: Any) -> str:
    """The first line of a docstring, up to its formula or its year."""
    return re.split(r"[:,;] |\\.$", (function.__doc__ or "").splitlines()[0].replace(" (", " of ", 1))[0]


def _print_listing(listing: dict[str, dict[str, str]], as_json: bool) -> None:
    if as_json:
        _print_json(listing)
        return
    for title, entries in listing.items():
        table = Table(title_justify="left")
        table.add_column(title, no_wrap=True)
        table.add_column("")
        for name, description in entries.items():
            table.add_row(name, description)
        _out.print(table)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version of nestax, of JAX, and the device.

    Example: `nestax version --json`
    """
    value = {"nestax": __version__, "jax": jax.__version__, "device": evaluation.device_name()}
    if as_json:
        _print_json(value)
    else:
        _out.print(" ".join(f"{name} {number}" for name, number in value.items()), highlight=False)


if __name__ == "__main__":
    main()
