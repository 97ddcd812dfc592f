"""What a recipe is: a protocol at three scales, a run, and claims that are checked on what the run measured."""

import dataclasses
import difflib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._storage import write_atomically, write_json
from .._version import __version__
from ..evaluation import device_name

SCALES = ("smoke", "laptop", "paper")
"""Seconds (run in the tests); minutes to an hour or so on two cores; the published setting."""

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of a paper (or of ours) that can be true or false of a run's metrics."""

    id: str
    statement: str  # the claim in one sentence
    published: str  # what the source says, with its number where it gives one
    value: Callable[[Metrics], Any]  # our number: JSON
    holds: Callable[[Any], bool]  # whether that number bears the claim out
    tolerance: str  # how strict `holds` is, and why

    def check(self, metrics: Metrics, note: str = "") -> dict[str, Any]:
        """The claim as a JSON object. A value that could not be measured (`None`) does not hold."""
        value = self.value(metrics)
        return {
            "id": self.id,
            "statement": self.statement,
            "published": self.published,
            "value": value,
            "holds": value is not None and bool(self.holds(value)),
            "note": " ".join(filter(None, (self.tolerance, note))),
        }


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published table or figure that can be rerun."""

    name: str  # as on the command line
    title: str  # one line
    source: str  # publication, with table or figure
    scales: Mapping[str, Any]  # scale: protocol, a frozen dataclass
    run: Callable[..., Metrics]  # (protocol, seed, folder, progress) -> metrics, JSON values
    claims: tuple[Claim, ...]
    notes: str = ""  # what was tried, what differs from the source

    def protocol(self, scale: str) -> Any:
        if scale not in self.scales:
            near = difflib.get_close_matches(scale, self.scales, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"Recipe '{self.name}' has no scale '{scale}'.{hint} Known: {', '.join(self.scales)}.")
        return self.scales[scale]


def reproduce(recipe: Recipe, scale: str, seed: int, folder: Path, *, progress: bool = False) -> dict[str, Any]:
    """Runs a recipe and checks its claims. Writes `result.json` and `report.md` to `folder`, beside what the run
    writes.

    Trainings inside a recipe are runs in sub-folders: a recipe that was interrupted goes on where it stopped when it is
    called again with the same arguments.
    """
    protocol = recipe.protocol(scale)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    metrics = recipe.run(protocol, seed, folder, progress)
    result = {
        "recipe": recipe.name,
        "scale": scale,
        "seed": seed,
        "claims": [claim.check(metrics) for claim in recipe.claims],
        "metrics": metrics,
        "title": recipe.title,
        "source": recipe.source,
        "notes": recipe.notes,
        "protocol": dataclasses.asdict(protocol),
        "version": __version__,
        "device": device_name(),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(folder / "result.json", result)
    write_atomically(folder / "report.md", report(result).encode())
    return result


def report(result: Mapping[str, Any]) -> str:
    """A result as Markdown: its claims, with both numbers, and how they were obtained."""
    lines = [
        f"# {result['recipe']}, {result['scale']} scale",
        "",
        f"{result['title']}. Source: {result['source']}.",
        "",
        f"Seed {result['seed']}, nestax {result['version']}, {result['device']}, {result['seconds']:.0f} s.",
        "",
        "| claim | holds | published | here |",
        "|---|---|---|---|",
    ]
    for claim in result["claims"]:
        mark = "yes" if claim["holds"] else "**no**"
        lines.append(f"| {claim['id']}: {claim['statement']} | {mark} | {claim['published']} | {claim['value']} |")
    lines += ["", *(f"- {c['id']}: {c['note']}" for c in result["claims"] if c["note"])]
    for title in ("notes",):
        if result.get(title):
            lines += ["", result[title]]
    for table in result["metrics"].get("tables", []):
        lines += ["", f"**{table['title']}**", "", table["markdown"].rstrip()]
    return "\n".join(lines) + "\n"
