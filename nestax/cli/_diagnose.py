"""`nestax diagnose`."""

from typing import Annotated

import jax
import typer

import nestax as nx

from ._app import DEFAULT_PROBLEM, Json, Output, Seed, command, new_folder, print_json, show, shows_progress
from ._compare import optimizer_of


@command()
def diagnose(
    optimizer: Annotated[str, typer.Argument(help="name=learning_rate, or the file of a learned optimizer.")],
    problem: Annotated[str, typer.Option(help="What is solved; see `nestax problems`.")] = DEFAULT_PROBLEM,
    after: Annotated[int, typer.Option(min=0, help="Updates before the run is looked at.")] = 1_000,
    steps: Annotated[int, typer.Option(min=1, help="Updates that are followed then.")] = 100,
    seed: Seed = 0,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Say of a run whether it contracts, circles, is chaotic or diverges, along what, and at which learning rate not.

    Example: `nestax diagnose sgd=0.5 --problem digits-mlp`
    """
    name, method = optimizer_of(optimizer)
    target, key = nx.catalogue.by_name(problem), jax.random.key(seed)
    folder = new_folder(output, "diagnose", own=("diagnosis.png",))
    players, state = target.init(key), None
    if after:
        before = nx.solve(target, method, num_steps=after, key=key, progress=shows_progress(as_json))
        players, state = before.players, before.state
    found = nx.dynamics.diagnose(target, method, players, state=state, num_steps=steps, key=jax.random.fold_in(key, 1))
    found.plot(folder / "diagnosis.png", title=f"{name} on {problem}: {found.verdict}")
    summary = {
        "verdict": found.verdict,
        "exponents": [float(x) for x in found.exponents],
        "eigenvalue": [found.leading.real, found.leading.imag],
        "max_factor": found.max_factor,
        "picture": str(folder / "diagnosis.png"),
    }
    if as_json:
        print_json(summary)
        return
    show(str(found), f"Picture: {summary['picture']}")
