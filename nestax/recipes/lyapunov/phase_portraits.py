"""Figures 5.2 and C.1: the small games as planes, their fixed points, and where runs from everywhere end."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import dynamics, optimizers, problems
from ..._gradients import joint_gradient
from .. import Claim, Recipe, Trial, at, at_most, equal
from . import PAPER
from ._planes import NAMES, ends, modes


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A grid of starts in the plane of both logits."""

    num_steps: int = 20_000  # of descent and of LOLA, with a step of 1
    resolution: int = 13  # starts per axis
    bound: float = 6.0  # the largest logit of a start
    opponent_rate: float = 5.0
    weight: float = 0.25  # of the dilemma in the mixture


GAMES = {
    "dilemma": lambda p: problems.SmallPrisonersDilemma(),
    "pennies": lambda p: problems.MatchingPennies(),
    "mixed": lambda p: problems.mixed_dilemma(p.weight),
}


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    del protocol
    return {
        "dilemma/descent": {"game": "dilemma", "optimizer": "descent"},
        "pennies/descent": {"game": "pennies", "optimizer": "descent"},
        "mixed/descent": {"game": "mixed", "optimizer": "descent"},
        "mixed/lola": {"game": "mixed", "optimizer": "lola"},
    }


def measure(trial: Trial, game: str, optimizer: str) -> dict[str, Any]:
    p = trial.protocol
    problem = GAMES[game](p)
    method = optimizers.sgd(1.0) if optimizer == "descent" else optimizers.LOLA(1.0, opponent_rate=p.opponent_rate)
    plane = dynamics.Plane.of_scalars(-p.bound, p.bound, p.resolution)
    starts = plane.points()
    # from matching pennies nothing converges: descent spirals out until the logits are large
    found = modes(ends(problem, method, starts, p.num_steps if game != "pennies" else min(p.num_steps, 2_000)))
    field = jax.jit(jax.vmap(lambda x: jnp.stack(joint_gradient(problem, x, None)[1])))(starts)
    spectra = jax.jit(jax.vmap(jax.jacfwd(lambda x: jnp.stack(joint_gradient(problem, (x[0], x[1]), None)[1]))))(
        jnp.stack(starts, axis=1)
    )
    values = np.linalg.eigvals(np.asarray(spectra))
    centre = np.linalg.eigvals(np.asarray(dynamics.game_jacobian(problem, (jnp.zeros(()), jnp.zeros(()))).dense()))
    return {
        "ends": {name: int(np.sum(found == i)) for i, name in enumerate(NAMES)},
        "imaginary": float(np.abs(values.imag).max()),
        "centre": [float(centre[0].real), float(np.abs(centre[0].imag))],
        "labels": found,
        "field": np.asarray(field),
    }


def pictures(results: Any, metrics: dict[str, Any]) -> dict[str, Any]:
    import matplotlib.figure

    p = results.protocol
    ticks = np.linspace(-p.bound, p.bound, p.resolution)
    figure = matplotlib.figure.Figure(figsize=(14, 3.6), layout="constrained")
    for axes, (name, trials) in zip(figure.subplots(1, 4), results.items()):
        field = np.array(trials[0]["field"]).reshape(p.resolution, p.resolution, 2)
        length = np.linalg.norm(field, axis=-1, keepdims=True)
        arrows = -field / np.maximum(length, 1e-12)
        x, y = np.meshgrid(ticks, ticks, indexing="ij")
        labels = np.array(trials[0]["labels"]).reshape(x.shape)
        axes.pcolormesh(ticks, ticks, labels.T, shading="nearest", cmap="Pastel1", vmin=0, vmax=8)
        axes.quiver(x, y, arrows[..., 0], arrows[..., 1], scale=26, width=0.004)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("logit of the first player")
    del metrics
    return {"portraits": figure}


def summarize(results: Any) -> dict[str, Any]:
    kept = ("ends", "imaginary", "centre")
    return {"games": {name: {k: trials[0][k] for k in kept} for name, trials in results.items()}}


def tables(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = {
        name: {
            **{f"end: {mode}": count for mode, count in game["ends"].items()},
            "largest imaginary part": game["imaginary"],
            "eigenvalue at the origin": f"{game['centre'][0]:.2g} ± {game['centre'][1]:.4g}i",
        }
        for name, game in metrics["games"].items()
    }
    return {"Where runs from the grid end": rows}


RECIPE = Recipe(
    name="lyapunov/phase-portraits",
    title="Small games as planes: modes, fixed points, eigenvalues",
    source=f"{PAPER}, figures 2 and C.1",
    scales={"smoke": Protocol(20, 5), "laptop": Protocol(), "paper": Protocol(resolution=51)},
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    pictures=pictures,
    x64=True,
    claims=(
        Claim(
            id="P1",
            statement="Descent in the small dilemma ends in mutual cooperation or mutual defection, and both occur.",
            published="two solutions (figure 2)",
            value=lambda m: [
                min(m["games"]["dilemma/descent"]["ends"][k] for k in ("cooperate", "defect")),
                -sum(m["games"]["dilemma/descent"]["ends"][k] for k in ("centre", "other")),
            ],
            holds=lambda v: v[0] > 0 and v[1] == 0,
            tolerance="The rarer mode among the starts of the grid, and minus the number of other ends",
            fails=[3, -2],
        ),
        Claim(
            id="P2",
            statement="The game Jacobian of the small dilemma has real eigenvalues.",
            published="strictly real eigenvalues (figure 2)",
            value=at("games", "dilemma/descent", "imaginary"),
            holds=at_most(1e-6),
            tolerance="Largest imaginary part on the grid; for a low probability of 0.1 it is up to 0.002",
            fails=0.1,
        ),
        Claim(
            id="P3",
            statement="Matching pennies have imaginary eigenvalues at their solution.",
            published="strictly imaginary eigenvalues (figure 2)",
            value=at("games", "pennies/descent", "centre"),
            holds=lambda v: abs(v[0]) < 1e-12 and abs(v[1] - 0.25) < 1e-12,
            tolerance="Real and imaginary part at the origin; the closed form is a quarter",
            fails=[0.1, 0.25],
        ),
        Claim(
            id="P4",
            statement="The mixture has a fixed point with complex eigenvalues near the origin.",
            published="a Hopf point (figure 2)",
            value=at("games", "mixed/descent", "centre", 1),
            holds=lambda v: 0.18 < v < 0.2,
            tolerance="Imaginary part at the origin: (1 - weight) / 4 = 0.1875",
            fails=0.0,
        ),
        Claim(
            id="P5",
            statement="In the mixture descent finds cooperation from everywhere, and LOLA two different modes.",
            published="two basins under LOLA (figure C.1)",
            value=lambda m: (
                [m["games"]["mixed/descent"]["ends"][k] for k in ("defect", "centre", "other")]
                + [int(m["games"]["mixed/lola"]["ends"][k] == 0) for k in ("cooperate", "centre")]
            ),
            holds=equal(0),
            tolerance="Ends of descent that are no cooperation; whether LOLA misses cooperation, and the centre",
            fails=[0, 1, 0, 0, 0],
        ),
    ),
)
