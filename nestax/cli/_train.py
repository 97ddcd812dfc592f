"""`nestax train`."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import nestax as nx

from .._checks import unknown_name
from ._app import (
    DEFAULT_PROBLEM,
    Coordinator,
    Distributed,
    JoinTimeout,
    Json,
    NumProcesses,
    Output,
    ProcessId,
    Seed,
    command,
    join_processes,
    naming_resumption,
    new_folder,
    print_json,
    rate_option,
    refuse_others,
    resumed_options,
    show,
    shows_progress,
)


@command()
def train(
    problem: Annotated[str, typer.Option(help="What to train on; see `nestax problems`.")] = DEFAULT_PROBLEM,
    optimizer: Annotated[
        str, typer.Option(help="What to train; see `nestax optimizers`.")
    ] = "rnnprop-stronger-baselines",
    schedule: Annotated[str, typer.Option(help="Stages of steps × epochs, such as 100x40,200x20.")] = "100x100",
    unroll: Annotated[int, typer.Option(help="Steps per truncation; divides every stage's steps.")] = 20,
    num_tasks: Annotated[int, typer.Option(help="Optimizations per meta-update.")] = 1,
    meta_loss: Annotated[str, typer.Option(help="sum, last or log.")] = "sum",
    learning_rate: Annotated[float, rate_option("Of the meta-optimizer, Adam.")] = 1e-3,
    max_coordinates: Annotated[
        int, typer.Option(min=0, help="Coordinates per tensor in the meta-gradient; 0 is all.")
    ] = 256,
    random_scaling: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="ln of the largest random scale; 0 is off, Lv et al. use 3.")
    ] = 0.0,
    convex: Annotated[bool, typer.Option("--convex", help="Add Lv's convex function of 20 variables.")] = False,
    validate_every: Annotated[
        int, typer.Option(min=0, help="Epochs between validations; 0 keeps the last iterate.")
    ] = 0,
    seed: Seed = 0,
    output: Output = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder; needs no other option.")
    ] = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    join_timeout: JoinTimeout = 300.0,
    as_json: Json = False,
) -> None:
    """Meta-train a learned optimizer. Ctrl-C stops it cleanly; `--resume` goes on, bit for bit.

    A longer `--schedule` beside `--resume` goes on beyond the end. All devices of the machine share the tasks where
    they divide them; with `--distributed` or `--coordinator` those of all processes do.

    Example: `nestax train --problem digits-mlp --schedule 100x40,200x20,500x8 --meta-loss log --output runs/mine`
    """
    processes = join_processes(distributed, coordinator, num_processes, process_id, join_timeout)
    options = {
        "problem": problem,
        "optimizer": optimizer,
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
    stages = _parse_schedule(schedule)
    if resume is None:
        arguments = _arguments(options)
        processes.agree({"--output": str(Path(output or "runs").absolute())})
        folder = Path(processes.first(lambda: str(new_folder(output, "train"))))
    else:
        defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
        refuse_others({**options, "output": output}, defaults)
        options, stored = resumed_options(resume, "train")
        stages = [(horizon, epochs) for horizon, epochs in stored] if schedule == defaults["schedule"] else stages
        arguments, folder = _arguments(options), resume
    with naming_resumption(f"nestax train --resume {folder}"):
        training = nx.meta.train(
            **arguments,
            schedule=stages,
            run=folder,
            resume=resume is not None,
            config={"train": options},
            progress=shows_progress(as_json),
            mesh=jax.make_mesh((jax.device_count(),), ("tasks",)) if processes.is_shared else None,
        )
    if not processes.is_first:
        return
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
        print_json(summary)
        return
    show(*(f"{name:>16}  {value}" for name, value in summary.items()))
    show(f"\nUse it: nestax evaluate --problem {options['problem']} {summary['optimizer']} adam")


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `meta.train`."""
    import optax

    meta_losses = {"sum": nx.meta.Sum, "last": nx.meta.Last, "log": nx.meta.SumLog}
    if options["meta_loss"] not in meta_losses:
        raise unknown_name("meta-loss", options["meta_loss"], meta_losses)
    key = jax.random.key(options["seed"])
    optimizer = nx.learned.preset(options["optimizer"], key=key)
    tasks: nx.AbstractFamily = nx.as_family(nx.catalogue.resolve(options["problem"]))
    if options["random_scaling"] > 0:
        tasks = nx.meta.RandomScaling(tasks, options["random_scaling"])
    if options["convex"]:
        tasks = nx.meta.ConvexCombination(tasks)
    every = options["validate_every"]
    return {
        "optimizer": optimizer,
        "tasks": tasks,
        "key": key,
        "unroll": options["unroll"],
        "num_tasks": options["num_tasks"],
        "meta_loss": meta_losses[options["meta_loss"]](),
        "estimator": nx.meta.CoordinateSum(options["max_coordinates"] or None),
        "meta_optimizer": optax.adam(options["learning_rate"]),
        "validation": nx.meta.Validation(every=every) if every else None,
    }


def _parse_schedule(text: str) -> list[tuple[int, int]]:
    try:
        return [(int(horizon), int(epochs)) for horizon, epochs in (stage.split("x") for stage in text.split(","))]
    except ValueError:
        raise ValueError(
            f"`--schedule` is stages of steps x epochs, such as 100x40,200x20; got '{text[:100]}'."
        ) from None
