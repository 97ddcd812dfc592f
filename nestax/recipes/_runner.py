"""The runner of all recipes: progress, kept trials, resume, seconds, summaries, tables, figures, claims, the report."""

import contextlib
import dataclasses
import functools
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._folder import FolderInUse
from .._processes import Processes
from .._storage import CheckpointError, read_json, save_figure, write_atomically, write_json
from .._version import __version__
from ..data import DataError
from ..evaluation import device_name
from ._recipe import Metrics, Recipe, Results, Trial
from ._tables import markdown, spread, text

_POLL_SECONDS = 0.5  # between two looks at the files of another process


def reproduce(recipe: Recipe, scale: str, seed: int, folder: Path, *, progress: bool = False) -> dict[str, Any]:
    """Runs a recipe and checks its claims.

    Every trial (one cell for one seed) is kept in `folder/cells/CELL/SEED.json` when it is done, and trainings inside
    are runs in folders: what was interrupted goes on where it stopped when it is called again with the same arguments.
    Writes `result.json`, `report.md` and the figures to `folder`.

    Where JAX has several processes (`jax.distributed`), each of them makes every so many-th trial, with its own devices
    and in its own files, and reads those of the others, which it must see: one folder for all. The first one writes the
    summary.

    **Returns** the result as JSON values. Its `seconds` are the sum of what all trials took when they were computed,
    in this call or an earlier one.
    """
    protocol = recipe.protocol(scale)
    processes = Processes(shared=jax.process_count() > 1)
    processes.agree({"recipe": recipe.name, "scale": scale, "seed": str(seed), "folder": str(folder.absolute())})
    processes.first(lambda: _prepare(folder))
    with _precision(recipe.x64):
        metrics, seconds, num = _Session(recipe, protocol, seed, folder, progress).run()
    result = {
        "recipe": recipe.name,
        "scale": scale,
        "seed": seed,
        "claims": recipe.check(metrics, scale),
        "metrics": metrics,
        "title": recipe.title,
        "source": recipe.source,
        "protocol": _as_json(dataclasses.asdict(protocol)),
        "version": __version__,
        "device": device_name(),
        "trials": num,
        "seconds": round(seconds, 1),
    }
    if processes.is_first:
        write_json(folder / "result.json", result)
        write_atomically(folder / "report.md", report(result).encode())
    return result


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("cells/**/*.missing"):  # of an earlier call: the data may be there now
        path.unlink(missing_ok=True)


def report(result: Mapping[str, Any]) -> str:
    """A result as Markdown: its claims, with both numbers, and how they were obtained."""
    lines = [
        f"# {result['recipe']}, {result['scale']} scale",
        "",
        f"{result['title']}. Source: {result['source']}.",
        "",
        f"Seed {result['seed']}, nestax {result['version']}, {result['device']}, {result['seconds']:.0f} s.",
        "",
    ]
    claims = [
        {
            "claim": f"{c['id']} ({c['kind']}): {c['statement']}",
            "verdict": c["status"] if c["holds"] else f"**{c['status']}**",
            "published": c["published"],
            "here": text(c["value"]) if isinstance(c["value"], float) else json.dumps(c["value"], ensure_ascii=False),
        }
        for c in result["claims"]
    ]
    lines += [markdown(claims), *(f"- {c['id']}: {c['note']}" for c in result["claims"] if c["note"])]
    for table in result["metrics"].get("tables", []):
        lines += ["", f"**{table['title']}**", "", table["markdown"].rstrip()]
    return "\n".join(lines) + "\n"


class _Session:
    """One call of `reproduce`."""

    def __init__(self, recipe: Recipe, protocol: Any, seed: int, folder: Path, progress: bool):
        self.recipe, self.protocol, self.seed, self.folder, self.progress = recipe, protocol, seed, folder, progress
        self.settings = {k: v for k, v in _as_json(dataclasses.asdict(protocol)).items() if k not in recipe.axes}
        self.settings.pop("num_seeds", None)
        self.shared: dict[str, Any] = {}
        self.seconds = 0.0  # of all trials, and of what they share
        self.elsewhere = 0.0  # of the present trial, what counts as shared

    def run(self) -> tuple[Metrics, float, int]:
        cells = _as_json(self.recipe.cells(self.protocol))
        results = Results(self.protocol, cells, self.seed)
        trials = [
            (name, settings, i)
            for name, settings in cells.items()
            for i in range(settings.get("num_seeds", getattr(self.protocol, "num_seeds", 1)))
        ]
        from rich.console import Console  # here, since importing the package must not pay for it

        console = Console(stderr=True, quiet=not self.progress)
        rank, num = jax.process_index(), jax.process_count()
        for number, (name, settings, i) in enumerate(trials):
            if number % num == rank:
                results.add(name, self._trial(name, settings, i, results, console, f"{number + 1}/{len(trials)}"))
            else:
                results.add_later(name, functools.cache(functools.partial(self._await, name, settings, i)))
        for name in results:  # of the other processes, too
            results[name]
        self.seconds += sum(read_json(path)["seconds"] for path in self.folder.glob("shared/*.json"))
        started = time.monotonic()
        metrics = self._summarize(results)
        draws = self.recipe.pictures if rank == 0 else None
        for stem, figure in (draws(results, metrics) if draws else {}).items():
            save_figure(self.folder / f"{stem}.png", figure)
        return metrics, self.seconds + time.monotonic() - started, len(trials)

    def _trial(
        self, name: str, settings: dict[str, Any], repetition: int, results: Results, console: Any, at: str
    ) -> Any:
        assert self.recipe.measure is not None
        path, wanted = self._place(name, settings, repetition)
        place, seed, arguments = path.parent, wanted["seed"], wanted["settings"]
        if path.exists():
            stored = read_json(path)
            if {key: stored[key] for key in wanted} == wanted:
                self.seconds += stored["seconds"]
                return stored["result"]
        console.print(f"{at}  {name}, seed {seed}", highlight=False)
        at_it = (seed, repetition, self.seed, place / str(repetition))
        trial = Trial(self.protocol, name, *at_it, self.progress, results, self._once)
        started, self.elsewhere = time.monotonic(), 0.0
        try:
            result = plain(self.recipe.measure(trial, **arguments), self.recipe.digits)
        except DataError as error:  # not kept: the data may be there next time
            said = {"missing": str(error).splitlines()[0]}  # the rest names places of this machine
            if jax.process_count() > 1:
                write_json(path.with_suffix(".missing"), said)
            return said
        seconds = round(time.monotonic() - started - self.elsewhere, 3)
        write_json(path, {**wanted, "seconds": seconds, "result": result})
        self.seconds += seconds
        return result

    def _place(self, name: str, settings: dict[str, Any], repetition: int) -> tuple[Path, dict[str, Any]]:
        """Where a trial is kept, and what must stand there for it to be this one."""
        arguments = {k: v for k, v in settings.items() if k != "num_seeds"}
        wanted = {"protocol": self.settings, "settings": arguments, "seed": 1_000 * self.seed + repetition}
        return self.folder / "cells" / file_name(name) / f"{repetition}.json", wanted

    def _await(self, name: str, settings: dict[str, Any], repetition: int) -> Any:
        """The result of a trial of another process, when that is there. JAX ends this process if that one is lost."""
        path, wanted = self._place(name, settings, repetition)
        while True:
            with contextlib.suppress(CheckpointError):
                stored = read_json(path)
                if {key: stored[key] for key in wanted} == wanted:
                    self.seconds += stored["seconds"]
                    return stored["result"]
            with contextlib.suppress(CheckpointError):
                return read_json(path.with_suffix(".missing"))
            time.sleep(_POLL_SECONDS)

    def _once(self, name: str, make: Callable[[Path], Any]) -> Any:
        if name not in self.shared:
            started = time.monotonic()
            place = self.folder / "shared" / file_name(name)
            self.shared[name] = _when_free(make, place)
            seconds = time.monotonic() - started
            self.elsewhere += seconds
            if not place.with_suffix(".json").exists():  # else it was finished by an earlier call, which took longer
                write_json(place.with_suffix(".json"), {"seconds": round(seconds, 3)})
        return self.shared[name]

    def _summarize(self, results: Results) -> Metrics:
        if self.recipe.summarize is not None:
            metrics = dict(self.recipe.summarize(results))
        else:
            metrics = {"cells": {name: spreads(seeds) for name, seeds in results.items()}}
        metrics = plain(metrics, self.recipe.digits)
        if self.recipe.tables is not None:
            tables = self.recipe.tables(metrics)
        elif self.recipe.summarize is None:
            tables = {"Means over seeds [range]": metrics["cells"]}
        else:
            tables = {}
        if tables:
            shown = {title: rows if isinstance(rows, str) else markdown(rows) for title, rows in tables.items()}
            metrics["tables"] = [{"title": title, "markdown": rows} for title, rows in shown.items()]
        return metrics


def _when_free(make: Callable[[Path], Any], place: Path) -> Any:
    """`make(place)`; where another of several processes is making it, after that, from what it has left."""
    while True:
        try:
            return make(place)
        except FolderInUse:
            if jax.process_count() == 1:
                raise
            time.sleep(_POLL_SECONDS)


def spreads(seeds: list[Any]) -> dict[str, Any]:
    """The spread over seeds of every number that a cell returned; what is no number is left out."""
    known = [one for one in seeds if "missing" not in one]
    if not known:
        return {}
    names = [k for k, v in known[0].items() if v is None or (isinstance(v, int | float) and not isinstance(v, bool))]
    return {name: spread([one[name] for one in known]) for name in names}


def plain(value: Any, digits: int = 6) -> Any:
    """JSON values of arrays, tuples and numbers: floats with so many significant digits, `None` if not finite."""
    if isinstance(value, Mapping):
        return {str(k): plain(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, digits) for v in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return plain(np.asarray(value).tolist(), digits)
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def file_name(name: str) -> str:
    """The name of a cell as a path: without blanks and what file systems dislike."""
    return re.sub(r"[^\w./+=-]+", "-", name)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@contextlib.contextmanager
def _precision(x64: bool):
    if not x64:
        yield
        return
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield
