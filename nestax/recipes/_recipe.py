"""Recipes as data: a protocol at three scales, cells, how one cell is measured for one seed, and claims."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key, PRNGKeyArray

from .._checks import unknown_name
from ._claims import Claim, Metrics

SCALES = ("smoke", "laptop", "paper")
"""Seconds (run in the tests); minutes to an hour or so on two cores; the published setting."""

Cells = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One cell for one seed: what `measure` gets besides the settings of the cell."""

    protocol: Any
    cell: str  # its name
    seed: int  # distinct for each repetition; the same for all cells
    repetition: int = 0  # 0, 1, ...
    run_seed: int = 0  # of the whole run of the recipe, for what all repetitions share
    folder: Path = Path()  # of this trial alone, for a training
    progress: bool = False  # whether to show some
    results: Mapping[str, list[Any]] = dataclasses.field(default_factory=dict)  # of all cells before this one
    _once: Callable[[str, Callable[[Path], Any]], Any] = lambda name, make: make(Path())

    @property
    def key(self) -> PRNGKeyArray:
        return jax.random.key(self.seed)

    def keys(self, num: int) -> Key[Array, " num"]:
        """`num` keys that differ from `key` and from each other."""
        return jax.random.split(self.key, num)

    def once(self, name: str, make: Callable[[Path], Any]) -> Any:
        """`make(folder)`, called once per run of the recipe and shared by all trials that ask for this `name`.

        The folder is the same in every run: a training that keeps its state there resumes. What it takes is counted
        once in the `seconds` of the result.
        """
        return self._once(name, make)


class Results(Mapping[str, list[Any]]):
    """What `measure` returned: the name of a cell to a list with one entry per seed."""

    def __init__(self, protocol: Any, cells: Cells, seed: int):
        self.protocol, self.cells, self.seed = protocol, cells, seed
        self._found: dict[str, list[Callable[[], Any]]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        return [found() for found in self._found[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, name: str, value: Any) -> None:
        self.add_later(name, lambda: value)

    def add_later(self, name: str, value: Callable[[], Any]) -> None:
        """Adds what is not known before it is asked for."""
        self._found.setdefault(name, []).append(value)

    def nested(self, pick: Callable[[list[Any]], Any] = lambda seeds: seeds) -> dict[str, Any]:
        """The results as nested dictionaries: the cell `a/b` lies at `["a"]["b"]`, as `pick` makes it of the seeds."""
        out: dict[str, Any] = {}
        for name, seeds in self.items():
            *parents, last = name.split("/")
            place = out
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = pick(seeds)
        return out


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published table or figure that can be rerun.

    The name of a cell is its place in the files and, by `Results.nested`, in the metrics: `matrix/adam`. Its settings
    are JSON values, handed to `measure` by keyword; `num_seeds` among them, if there, overrides the protocol's.
    A trial is computed anew only if the protocol (without its `axes`), the settings or the seed are others.
    """

    name: str  # as on the command line: topic/file
    title: str  # one line
    source: str  # publication, with table or figure
    scales: Mapping[str, Any]  # scale: protocol, a frozen dataclass
    claims: tuple[Claim, ...]
    cells: Callable[[Any], Cells] = lambda protocol: {"run": {}}  # of a protocol: the settings of each cell, by name
    measure: Callable[..., Any] | None = None  # (trial, **settings) -> JSON values, of one cell for one seed
    axes: tuple[str, ...] = ()  # fields of the protocol that say only which cells there are
    summarize: Callable[[Results], Metrics] | None = None  # default: spread over seeds of every number of every cell
    tables: Callable[[Metrics], Mapping[str, Any]] | None = None  # of the metrics: rows by title; see `markdown`
    pictures: Callable[[Results, Metrics], Mapping[str, Any]] | None = None  # figures by file name, without suffix
    x64: bool = False  # float64, on the CPU
    digits: int = 6  # significant ones that are kept of every number

    def protocol(self, scale: str) -> Any:
        if scale not in self.scales:
            raise unknown_name(f"scale of the recipe '{self.name}'", scale, self.scales)
        return self.scales[scale]

    def check(self, metrics: Metrics, scale: str) -> list[dict[str, Any]]:
        """All claims, as JSON objects."""
        return [claim.check(metrics, scale) for claim in self.claims]


def gather(name: str, pick: Callable[[list[Any]], Any] = lambda seeds: seeds) -> Callable[[Results], Metrics]:
    """A `summarize`: all results under one name, nested, each cell as `pick` makes it of its seeds."""
    return lambda results: {name: results.nested(pick)}


def by_key(seeds: list[Any]) -> dict[str, Any]:
    """Lists over seeds of every entry, also of dictionaries in them; of those that were measured, `{}` if none was."""

    def gathered(values: list[Any]) -> Any:
        return by_key(values) if isinstance(values[0], dict) else values

    known = [one for one in seeds if "missing" not in one]
    return {name: gathered([one[name] for one in known]) for name in (known[0] if known else ())}


def first(seeds: list[Any]) -> Any:
    """The first entry; the only one of a cell that is measured once."""
    return seeds[0]


def grid(**axes: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Cells for all combinations: `grid(size=(1, 2), decay=("one", "many"))` names them `1/one`, `1/many`, ..."""
    cells: dict[str, dict[str, Any]] = {"": {}}
    for axis, entries in axes.items():
        cells = {
            f"{name}/{_text(entry)}".lstrip("/"): {**settings, axis: entry}
            for name, settings in cells.items()
            for entry in entries
        }
    return cells


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
