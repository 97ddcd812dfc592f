"""What truncated Neumann series make of an inverse Hessian, as pictures."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from ... import data, hyper
from ..._storage import save_figure
from .._recipe import Claim, Metrics, Recipe
from ._linear import curvature, regression


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    datasets: tuple[str, ...]  # linear networks: with squared error, on digits with cross-entropy
    terms: tuple[int, ...] = (1, 2, 3, 5, 10)  # published: 1, ..., 10
    more_terms: tuple[int, ...] = (100, 1000)  # to see where it goes
    digits_decay: float = 0.01  # without it the Hessian of a softmax is singular


def _regression_hessian(name: str, seed: int) -> np.ndarray:
    problem = regression(name, seed)
    return curvature(problem, problem.init(jax.random.key(seed))[0])


def _digits_hessian(protocol: Protocol, seed: int) -> np.ndarray:
    """Of softmax regression on digits with a ridge, at its minimum by Newton's method."""
    dataset = data.digits().take(np.random.default_rng(seed).permutation(1797)[:500])
    inputs = jnp.concatenate([dataset.inputs, jnp.ones((500, 1))], axis=1)
    labels = jax.nn.one_hot(dataset.labels, 10)

    def loss(flat):
        weights = flat.reshape(65, 10)
        entropy = -jnp.sum(labels * jax.nn.log_softmax(inputs @ weights)) / len(inputs)
        return entropy + protocol.digits_decay * jnp.sum(flat**2)

    @jax.jit
    def step(flat):
        return flat - jnp.linalg.solve(jax.hessian(loss)(flat), jax.grad(loss)(flat))

    flat = jnp.zeros(650)
    for _ in range(8):
        flat = step(flat)
    return np.asarray(jax.hessian(loss)(flat), np.float64)


def _series(matrix: np.ndarray, alpha: float, num_terms: int) -> np.ndarray:
    """The library's series, applied to every unit vector."""
    hessian = jnp.asarray(matrix, jnp.float32)
    operator = hyper.Operator(lambda v: hessian @ v, jnp.zeros((), hessian.dtype))
    solver = hyper.Neumann(num_terms, alpha, growth=jnp.asarray(jnp.inf))
    columns = jax.vmap(lambda unit: solver.solve(operator, unit, None)[0])(jnp.eye(len(matrix), dtype=hessian.dtype))
    return np.asarray(columns, np.float64)


def _dominance(matrix: np.ndarray) -> float:
    """The mean magnitude on the diagonal over that off it."""
    size = len(matrix)
    diagonal = np.abs(np.diag(matrix)).sum()
    return float(diagonal / size / ((np.abs(matrix).sum() - diagonal) / (size * (size - 1))))


def _measure(matrix: np.ndarray, protocol: Protocol) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    values = np.linalg.eigvalsh(matrix)
    inverse = np.linalg.pinv(matrix)
    published = float(np.sqrt(len(matrix)) / np.linalg.norm(matrix))
    safe = float(1 / values[-1])
    counts = (*protocol.terms, *protocol.more_terms)
    approximations = {n: _series(matrix, safe, n) for n in counts}
    errors = {n: float(np.linalg.norm(a - inverse) / np.linalg.norm(inverse)) for n, a in approximations.items()}
    outward = [float(np.linalg.norm(_series(matrix, published, n) - inverse)) for n in protocol.terms]
    pictures = {f"{n} terms" if n > 1 else "1 term": approximations[n] for n in protocol.terms}
    numbers = {
        "size": len(matrix),
        "condition": float(f"{values[-1] / values[0]:.4g}"),
        "dominance": round(_dominance(inverse), 3),
        "errors": {str(n): float(f"{e:.5g}") for n, e in errors.items()},
        "published_alpha_times_top": round(published * float(values[-1]), 3),
        "published_errors": [float(f"{e / np.linalg.norm(inverse):.4g}") for e in outward],
    }
    return numbers, {**pictures, "inverse": inverse}


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Measures on every data set; writes `comparison.png`."""
    del progress
    rows, pictures = {}, {}
    for name in protocol.datasets:
        matrix = _digits_hessian(protocol, seed) if name == "digits" else _regression_hessian(name, seed)
        rows[name], pictures[name] = _measure(matrix, protocol)
    _plot(pictures, folder / "comparison.png")
    return {"rows": rows, "tables": [_table(rows)]}


def _table(rows: Mapping[str, Any]) -> dict[str, str]:
    counts = list(next(iter(rows.values()))["errors"])
    lines = [f"| data | weights | condition | diagonal over rest | {' | '.join(f'{n} terms' for n in counts)} |"]
    lines.append("|---" * (4 + len(counts)) + "|")
    for name, row in rows.items():
        errors = " | ".join(f"{row['errors'][n]:.3g}" for n in counts)
        lines.append(f"| {name} | {row['size']} | {row['condition']:.3g} | {row['dominance']:.2f} | {errors} |")
    title = "Distance of the series from the inverse over its norm (Frobenius); step size 1 over the largest eigenvalue"
    return {"title": title, "markdown": "\n".join(lines) + "\n"}


def _plot(pictures: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    columns = max(len(row) for row in pictures.values())
    figure = matplotlib.figure.Figure(figsize=(2.1 * columns, 2.3 * len(pictures)), layout="constrained")
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    for axes_row, (name, row) in zip(panels, pictures.items()):
        for axes, (title, matrix) in zip(axes_row, row.items()):
            axes.imshow(np.tanh(matrix / np.abs(matrix).max() * 2), vmin=-1, vmax=1, cmap="RdBu_r")
            axes.set_title(f"{name}: {title}", fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
    save_figure(path, figure)


RECIPE = Recipe(
    name="hyper/inverse-hessian",
    title="Neumann series beside the inverse Hessian",
    source="Lorraine (2024), chapter 3, Figure 3.4; Lorraine, Vicol and Duvenaud (2020), Figure 4",
    scales={
        "smoke": Protocol(("diabetes",), more_terms=(100,)),
        "laptop": Protocol(("boston", "diabetes", "digits")),
        "paper": Protocol(("boston", "diabetes", "digits"), tuple(range(1, 11)), (100, 1000, 10_000)),
    },
    run=run,
    claims=(
        Claim(
            id="H1",
            statement="The diagonal of the inverse Hessian dominates.",
            published="a dominant diagonal, in the picture",
            value=lambda m: {name: row["dominance"] for name, row in m["rows"].items()},
            holds=lambda v: all(x > 2 for x in v.values()),
            tolerance="The mean magnitude on the diagonal over that off it; above 2 on each data set.",
        ),
        Claim(
            id="H2",
            statement="More terms of the series come nearer to the inverse.",
            published="more terms approach its structure, in the picture",
            value=lambda m: {name: row["errors"] for name, row in m["rows"].items()},
            holds=lambda v: all(bool(np.all(np.diff(list(errors.values())) < 0)) for errors in v.values()),
            tolerance="The distance falls from each number of terms to the next, with a step size below 2 / λ_max.",
        ),
        Claim(
            id="H3",
            statement="The published step size, norm of I over norm of H, lets the series converge.",
            published="the published code scales by it",
            value=lambda m: {name: row["published_alpha_times_top"] for name, row in m["rows"].items()},
            holds=lambda v: all(x < 2 for x in v.values()),
            tolerance="The step size times the largest eigenvalue, which must be below 2.",
        ),
    ),
    notes=(
        "Linear networks with a logarithm of a decay of -7 per weight on standardized features (Boston, diabetes: the "
        "Hessian of a quadratic does not depend on the weights), and softmax regression on 500 digits with a ridge, at "
        "its minimum. The published step size assumes that the spectrum is flat; one large eigenvalue is enough to "
        "break it, so the table and the pictures take 1 over the largest eigenvalue. Pictures show tanh of twice the "
        "entries over the largest."
    ),
)
