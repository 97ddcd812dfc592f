"""`nestax tune`."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import nestax as nx

from .._checks import unknown_name
from ._app import (
    Json,
    Output,
    Seed,
    command,
    naming_resumption,
    new_folder,
    new_table,
    print_json,
    rate_option,
    refuse_others,
    resumed_options,
    show,
    shows_progress,
)

_COLUMNS = ("step", "outer_loss", "inner_loss", "inner_gradient_norm", "test_accuracy")
_METHODS = ("minres", "neumann", "cg", "identity", "unrolled", "hypernetwork")


@command()
def tune(
    problem: Annotated[str, typer.Option(help="What to tune; see `nestax problems`.")] = "digits-decay",
    method: Annotated[
        str,
        typer.Option(
            help="minres, neumann, cg, identity, unrolled or hypernetwork: how the response of the weights is found."
        ),
    ] = "minres",
    terms: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Terms of the series, steps of the solver, unrolled steps, or rank of the hypernetwork. "
            "Default: 100 of minres, else 20.",
        ),
    ] = None,
    outer_steps: Annotated[int, typer.Option(min=1, help="Updates of the hyperparameters.")] = 1_000,
    inner_steps: Annotated[int, typer.Option(min=0, help="Updates of the weights before each of them.")] = 5,
    learning_rate: Annotated[float, rate_option("Of the weights: Adam; SGD in unrolled steps.")] = 0.01,
    outer_learning_rate: Annotated[float, rate_option("Of the hyperparameters, RMSprop.")] = 0.01,
    patience: Annotated[int, typer.Option(min=0, help="Stop after so many records (of 10) without a best; 0: no.")] = 0,
    seed: Seed = 0,
    output: Output = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder; needs no other option.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tune hyperparameters by hypergradients while the weights train: validation data say how.

    Writes the run, with a plot of validation and training loss, to a folder. Ctrl-C stops it cleanly; `--resume` goes
    on, bit for bit, and with more `--outer-steps` beyond the end.

    Example: `nestax tune --problem digits-decay --outer-steps 1000 --output runs/decay`
    """
    options = {
        "problem": problem,
        "method": method,
        "terms": terms,
        "inner_steps": inner_steps,
        "learning_rate": learning_rate,
        "outer_learning_rate": outer_learning_rate,
        "patience": patience,
        "seed": seed,
    }
    every = 10 if outer_steps % 10 == 0 else 1
    if resume is None:
        arguments = _arguments(options)
        folder = new_folder(output, "tune")
    else:
        defaults = {name: parameter.default for name, parameter in inspect.signature(tune).parameters.items()}
        refuse_others({**options, "output": output}, defaults)
        options, ((every, number),) = resumed_options(resume, "tune")
        outer_steps = every * number if outer_steps == defaults["outer_steps"] else outer_steps
        arguments, folder = _arguments(options), resume
    with naming_resumption(f"nestax tune --resume {folder}"):
        tuning = nx.hyper.tune(
            **arguments,
            num_outer_steps=outer_steps,
            record_every=every,
            run=folder,
            resume=resume is not None,
            config={"tune": options},
            progress=shows_progress(as_json),
        )
    best = None if tuning.best_record is None else tuning.history[tuning.best_record]
    rows = {"first": tuning.history[0], "best": best, "last": tuning.history[-1]}
    rows = {name: row and {column: row[column] for column in _COLUMNS} for name, row in rows.items()}
    if as_json:
        print_json({"folder": str(folder), **rows})
        return
    names = ("", "outer step", "validation loss", "training loss", "its gradient", "test accuracy")
    table = new_table(nx.catalogue.describe_nested(options["problem"]), dict.fromkeys(names, "left"))
    for name, row in rows.items():
        cells = ((row or {}).get(column) for column in _COLUMNS)
        table.add_row(name, *(f"{x:.4g}" if isinstance(x, float | int) else "-" for x in cells))
    show(table, f"Plot, report and checkpoint: {folder}")


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `hyper.tune`."""
    hyper, optimizers, terms = nx.hyper, nx.optimizers, options["terms"]
    terms = (100 if options["method"] == "minres" else 20) if terms is None else terms
    methods = {
        "minres": lambda: hyper.Implicit(hyper.MINRES(terms, warm_start=True)),
        "neumann": lambda: hyper.Implicit(hyper.Neumann(terms), residual=False),
        "cg": lambda: hyper.Implicit(hyper.CG(terms), damping=1e-3, residual=False),
        "identity": lambda: hyper.Implicit(hyper.Identity(), residual=False),
        "unrolled": lambda: hyper.Unrolled(optimizers.sgd(options["learning_rate"]), terms),
        "hypernetwork": lambda: hyper.Hypernetwork(hyper.FactorizedResponse(terms), hyper.Around(0.5)),
    }
    if options["method"] not in methods:
        raise unknown_name("method", options["method"], methods)
    nested, test = nx.catalogue.nested_by_name(options["problem"])
    return {
        "problem": nested,
        "optimizer": optimizers.adam(options["learning_rate"]),
        "outer_optimizer": optimizers.rmsprop(options["outer_learning_rate"], 0.99, 1e-16),  # for tiny hypergradients
        "method": methods[options["method"]](),
        "num_inner_steps": options["inner_steps"],
        "evaluate": lambda players: {"test_accuracy": nested.accuracy(players[1], test)},
        "patience": options["patience"] or None,
        "key": jax.random.key(options["seed"]),
    }
