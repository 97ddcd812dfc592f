"""What truncated Neumann series make of an inverse Hessian, as pictures."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import data, hyper
from .. import Metrics, Order, Recipe, Results, Trial, above, at, below, claims, images
from ._common import ANY_GROWTH, regression


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the figure is reproduced."""

    datasets: tuple[str, ...]  # linear networks: with squared error, on digits with cross-entropy
    terms: tuple[int, ...] = (1, 2, 3, 5, 10)  # published: 1, ..., 10
    more_terms: tuple[int, ...] = (100, 1000)  # to see where it goes
    digits_decay: float = 0.01  # without it the Hessian of a softmax is singular


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
    solver = hyper.Neumann(num_terms, alpha, growth=ANY_GROWTH)
    columns = jax.vmap(lambda unit: solver.solve(operator, unit, None)[0])(jnp.eye(len(matrix), dtype=hessian.dtype))
    return np.asarray(columns, np.float64)


def _dominance(matrix: np.ndarray) -> float:
    """The mean magnitude on the diagonal over that off it."""
    size = len(matrix)
    diagonal = np.abs(np.diag(matrix)).sum()
    return float(diagonal / size / ((np.abs(matrix).sum() - diagonal) / (size * (size - 1))))


def measure(trial: Trial, dataset: str) -> dict[str, Any]:
    """Distances of the series from the inverse, with a safe step size and with the published one."""
    p: Protocol = trial.protocol
    if dataset == "digits":
        matrix = _digits_hessian(p, trial.seed)
    else:
        problem = regression(dataset, trial.seed)
        matrix = problem.curvature(problem.init(trial.key)[0])
    largest, inverse = float(np.linalg.eigvalsh(matrix)[-1]), np.linalg.pinv(matrix)
    series = {f"{n} terms": _series(matrix, 1 / largest, n) for n in (*p.terms, *p.more_terms)}
    return {
        "weights": len(matrix),
        "condition": float(np.linalg.cond(matrix)),
        "diagonal over rest": _dominance(inverse),
        "published step times largest eigenvalue": float(np.sqrt(len(matrix)) / np.linalg.norm(matrix) * largest),
        **{name: float(np.linalg.norm(one - inverse) / np.linalg.norm(inverse)) for name, one in series.items()},
        "pictures": {"inverse": inverse} | {f"{n} terms": series[f"{n} terms"] for n in p.terms},
    }


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    rows = {name: one["pictures"] for name, (one,) in results.items() if "pictures" in one}
    shown = {name: [(title, _squashed(np.array(x))) for title, x in row.items()] for name, row in rows.items()}
    return {"comparison": images(shown, cmap="RdBu_r", vmin=-1, vmax=1)}


def _squashed(matrix: np.ndarray) -> np.ndarray:
    return np.tanh(matrix / np.abs(matrix).max() * 2)


def _by_terms(metrics: Metrics) -> dict[str, dict[str, float]]:
    """The distances from the inverse, by data set and number of terms."""
    cells = {name: cell for name, cell in metrics["cells"].items() if cell}
    return {name: {k: v["mean"] for k, v in cell.items() if k.endswith("terms")} for name, cell in cells.items()}


def falling(value: dict[str, Any]) -> bool:
    return all(map(Order("falling", lambda a, b: b < a), value.values()))


STEP = at("cells", ..., "published step times largest eigenvalue", "mean")
CLAIMS = claims(
    """
    H1 | published | The diagonal of the inverse Hessian dominates. | a dominant diagonal, in the picture (figure
        3.4) | The mean magnitude on the diagonal over that off it, on each data set
    H2 | control | More terms of the series come nearer to the inverse. | more terms approach its structure, in the
        picture (figure 3.4) | The distance by number of terms, which falls; a theorem for a step size below 2 /
        λ_max
    H3 | published | The published step size, norm of I over norm of H, lets the series converge. | the published
        code scales by it | The step size times the largest eigenvalue, on each data set
    """,
    {
        "H1": (at("cells", ..., "diagonal over rest", "mean"), above(2), {"boston": 3.0, "diabetes": 1.5}),
        "H2": (_by_terms, falling, {"boston": {"1": 0.9, "2": 0.95}}, True),
        "H3": (STEP, below(2), {"boston": 1.9, "diabetes": 2.7}),
    },
)

RECIPE = Recipe(
    name="hyper/inverse-hessian",
    title="Neumann series beside the inverse Hessian",
    source="Lorraine (2024), chapter 3, Figure 3.4; Lorraine, Vicol and Duvenaud (2020), Figure 4",
    scales={
        "smoke": Protocol(("diabetes",), (1, 2), (10,)),
        "laptop": Protocol(("boston", "diabetes", "digits")),
        "paper": Protocol(("boston", "diabetes", "digits"), tuple(range(1, 11)), (100, 1000, 10_000)),
    },
    axes=("datasets",),
    cells=lambda protocol: {name: {"dataset": name} for name in protocol.datasets},
    measure=measure,
    pictures=pictures,
    claims=CLAIMS,
)
