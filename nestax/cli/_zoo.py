"""`nestax zoo`."""

from pathlib import Path
from typing import Annotated, Any

import typer

import nestax as nx

from .._folder import check_writable
from ._app import Json, Seed, command, escaped, naming_resumption, new_table, print_json, show


@command()
def zoo(
    name: Annotated[str | None, typer.Argument(help="A trained optimizer; without one, all are listed.")] = None,
    make: Annotated[
        Path | None, typer.Option(help="Make it anew, from its seed, in this folder: weights and card. Minutes.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Show the card of a trained optimizer that comes with nestax: how it was made, its curves, where it fails.

    Example: `nestax zoo rnnprop-small`
    """
    if name is None:
        if make is not None:
            raise ValueError(f"`--make` needs a name: one of {', '.join(nx.learned.PRETRAINED)}.")
        cards = {each: nx.learned.card(each)["summary"] for each in nx.learned.PRETRAINED}
        if as_json:
            print_json(cards)
            return
        table = new_table(None, dict.fromkeys(("trained", ""), "left"))
        for each, summary in cards.items():
            table.add_row(each, summary)
        show(table)
        return
    if make is None:
        card = nx.learned.card(name)
    else:
        check_writable(make, "--make")
        with naming_resumption(f"nestax zoo {name} --make {make} --seed {seed}"):
            card = nx.recipes.make_pretrained(name, make, seed)
    if as_json:
        print_json(card)
    else:
        _show(card)


def _show(card: dict[str, Any]) -> None:
    show(f"[bold]{card['name']}[/]  {escaped(card['summary'])}", *(f"  Fails: {escaped(f)}" for f in card["fails"]))
    seeds = ", ".join(f"{s}: {entry['score']:.2f}" for s, entry in card["seeds"].items())
    cost = card["cost"]
    trained, steps = ", ".join(card["problems"]), f"{cost['optimizee_steps']:,}"
    show(f"Trained on {trained}, {steps} steps in {cost['seconds']:.0f} s. Meta-seeds")
    show(f"by {card['score']}: {seeds}; shipped is {card['chosen']}.")
    for problem, rows in card["evaluations"].items():
        of_games = "distance" in next(iter(rows.values()))
        kind, unit, form = ("distance", "gradients", ".2g") if of_games else ("ln loss", "steps", ".2f")
        field = kind.replace(" ", "_")
        marks = next(iter(rows.values()))[field]
        columns = {f"{problem}, {kind} after {unit}": "left", **dict.fromkeys((f"{int(m):,}" for m in marks), "right")}
        table = new_table(None, {**columns, "ms/step": "right"})
        for name, row in rows.items():
            middle = [row[field][mark][0] for mark in marks]  # a mean, of distances a median
            table.add_row(
                name, *("failed" if x is None else format(x, form) for x in middle), f"{row['ms_per_step']:.3g}"
            )
        show(table)
    show(f"Make it anew: {card['command']}")
