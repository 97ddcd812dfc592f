"""Diagnosis of a run: it contracts, circles, is chaotic or diverges; along what, and which step size changes that."""

import dataclasses
import math
from os import PathLike
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players
from .._rollout import RESULTS, AbstractStep, count_steps, rollout
from .._storage import save_figure
from ._coordinates import check_carry, ravel_real
from ._lyapunov import trajectory
from ._operators import JacobianOperator, step_jacobian
from ._plot import plot_eigenvalues
from ._singular import random_frame
from ._spectrum import Spectrum, arnoldi, spectrum
from ._tangent import TangentStep

Verdict = Literal["contracts", "circles", "chaotic", "diverges", "neutral"]

_DENSE = 300  # coordinates up to which all eigenvalues are found
_FEW = 6  # eigenvalues at each end of the spectrum beyond that


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`. `print` says it in words.

    - `verdict`: `"contracts"` (nearby runs come together), `"circles"` (they neither do nor separate, or spiral out),
      `"chaotic"` (they separate although the run stays where it is), `"diverges"`, or `"neutral"` (none of these:
      flat).
    - `exponents`: the largest Lyapunov exponents along the run, per step.
    - `spectrum`: eigenvalues and eigenvectors of the step's Jacobian at the end of the run; all of them in up to 300
      coordinates, else some of those furthest from 1, and of largest real part.
    - `max_factor`: multiply the learning rate by less than this and no further direction becomes unstable than are at
      any learning rate; below 1 it is too large now. `None` if it cannot be told: for a step that is no optimizer's,
      and for a large problem with an optimizer that has a state.
    - `num_repelling`: how many of the found directions repel at any learning rate: rotation, or negative curvature.
    - `running`, `distances`: the largest exponent up to each step, and the distance of the players from the start.
    - `names`, `shares`: the arrays of the players, and their part in the leading eigenvector (squared length).
    """

    verdict: Verdict
    exponents: np.ndarray
    spectrum: Spectrum
    max_factor: float | None
    num_repelling: int
    running: np.ndarray
    distances: np.ndarray
    names: tuple[str, ...]
    shares: np.ndarray

    @property
    def leading(self) -> complex:
        """The eigenvalue of largest modulus of the step at the end of the run."""
        return complex(self.spectrum.eigenvalues[0])

    def __str__(self) -> str:
        rate = math.expm1(float(self.exponents[0]))
        drift = f"nearby runs {'separate' if rate > 0 else 'come together'} by {abs(rate):.2%} per step"
        numbers = ", ".join(f"{x:.4f}" for x in self.exponents)
        lines = [f"{self.verdict}: {drift} (exponents {numbers})."]
        if not math.isfinite(abs(self.leading)):
            return lines[0] + "\nThe step has no finite Jacobian at the end of the run."
        order = np.argsort(-self.shares)[:3]
        along = ", ".join(f"{self.names[i]} {self.shares[i]:.0%}" for i in order if self.shares[i] >= 0.005)
        lines.append(
            f"At its end the largest eigenvalue of the step is {_number(self.leading)}: {_motion(self.leading)}."
        )
        lines.append(f"That direction lies in {along}.")
        if self.num_repelling:
            lines.append(
                f"{self.num_repelling} of {len(self.spectrum.eigenvalues)} directions found repel at any learning rate "
                "(rotation or negative curvature)."
                + (" `nestax.dynamics.suggest` looks for a method that would contract." if self._rotates else "")
            )
        if self.max_factor is not None and math.isfinite(self.max_factor):
            lines.append(
                f"The learning rate is too large: at less than {self.max_factor:.3g} times it, no direction is "
                "unstable for that reason."
                if self.max_factor < 1
                else f"The learning rate may be multiplied by up to {self.max_factor:.3g} before more directions "
                "become unstable."
            )
        return "\n".join(lines)

    @property
    def _rotates(self) -> bool:
        return abs(self.leading.imag) > 1e-6 * abs(self.leading)

    def direction(self, index: int = 0) -> np.ndarray:
        """The real part of an eigenvector in the players' coordinates, of length 1: what is moved."""
        vector = self.spectrum.eigenvectors[:, index][np.concatenate(self.spectrum.blocks)].real
        return vector / np.linalg.norm(vector)

    def plot(self, path: str | PathLike[str], *, title: str = "") -> None:
        """Writes a picture: the eigenvalues with the unit circle, the exponent and the distance over the run."""
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(11, 3.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        plot_eigenvalues(left, self.spectrum)
        left.set_title("eigenvalues of the step at the end", fontsize=9)
        steps = np.arange(1, len(self.running) + 1)
        middle.plot(steps, self.running)
        middle.axhline(0, color="gray", linewidth=0.8)
        middle.set_title("largest exponent up to step", fontsize=9)
        right.plot(steps, self.distances)
        right.set_title("distance from the start", fontsize=9)
        for axes in (middle, right):
            axes.set_xlabel("steps")
            axes.grid(True, alpha=0.3)
        figure.suptitle(title or self.verdict)
        save_figure(path, figure)


def diagnose(
    problem: AbstractProblem,
    optimizer: AbstractOptimizer,
    players: Players,
    *,
    num_steps: int = 500,
    state: PyTree | None = None,
    key: PRNGKeyArray | None = None,
    num: int = 2,
) -> Diagnosis:
    """Says of a run whether it contracts, circles, is chaotic or diverges, along what, and at which learning rate not.

    **Arguments:**

    - `problem`, `optimizer`: of the run.
    - `players`, `state`: where it is now. `state` defaults to a new one.
    - `num_steps`: how far it is followed from there. Default 500. Exponents within 2 over this number count as zero, so
      a slow spiral needs many steps.
    - `key`: fixes the samples of a problem with randomness. The answer is for these.
    - `num`: how many exponents. Default 2.

    **Returns** a `Diagnosis`; `print` it, or `plot` it.

    **Raises** `ValueError` as `lyapunov_exponents`.

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> loss = nx.problems.Quadratic(jnp.array([1.0, 10.0]))
    >>> found = nx.dynamics.diagnose(loss, nx.optimizers.sgd(0.25), (jnp.ones(2),), num_steps=50)
    >>> found.verdict, round(found.leading.real, 2), round(float(found.max_factor), 2)
    ('diverges', -1.5, 0.8)

    ```
    """
    step, carry, xs = trajectory(problem, optimizer, players, num_steps, key, state)
    return diagnose_step(step, carry, xs, num_steps=num_steps, num=num)


def diagnose_step(
    step: AbstractStep, carry: PyTree, xs: PyTree = None, *, num_steps: int | None = None, num: int = 2
) -> Diagnosis:
    """`diagnose` for any step, such as a map or a recurrent network. Arguments as for `nestax.rollout`."""
    num_steps = count_steps(xs, num_steps)
    check_carry(carry)
    moving = eqx.filter(carry, eqx.is_inexact_array)
    flat = ravel_real(moving)[0]
    frame = random_frame(flat.size, min(num, flat.size), flat.dtype)
    start = ravel_real(step.iterate(carry))[0]
    watch = _Watch(TangentStep(step), start)
    out = rollout(watch, ((carry, frame), start, jnp.zeros_like(start)), xs, num_steps=num_steps, throw=False)
    done = int(out.num_steps)
    logs, distances, lengths, angles = (np.asarray(x, np.float64)[:done] for x in out.info)
    exponents = logs[done // 5 :].mean(axis=0) if done else np.full(frame.shape[1], np.nan)
    last = None if xs is None else jax.tree.map(lambda x: x[-1], xs)
    end = out.carry[0][0]
    operator = step_jacobian(step, end, last)
    found, complete = _spectrum(operator)
    factor, repelling = _stability(operator, found, complete)
    names, shares = _leaf_shares(step, end, found)
    leading = found.eigenvalues[0]
    # a turning direction at the end, or a path that has gone round: far, but nowhere, and not by flipping to and fro
    turns = bool(abs(leading.imag) > 1e-6 * abs(leading)) or bool(
        angles.sum() > 2 * np.pi and angles.mean() < np.pi / 2 and 2 * distances.max() < lengths.sum()
    )
    return Diagnosis(
        _verdict(bool(out.result == RESULTS.successful), exponents, distances, turns, num_steps),
        exponents,
        found,
        factor,
        repelling,
        np.cumsum(logs[:, 0]) / np.arange(1, done + 1),
        distances,
        names,
        shares,
    )


class _Watch(AbstractStep):
    """Tells beside the exponents how far the iterate is from the start, how far it moved, and by what angle it turned.

    The carry is that of the step, the iterate, and the last move.
    """

    step: TangentStep
    start: Float[Array, " dim"]

    def __call__(self, carry: Any, x: PyTree) -> tuple[Any, Any]:
        inner, old, last = carry
        inner, logs = self.step(inner, x)
        new = ravel_real(self.step.iterate(inner))[0]
        move = new - old
        length = jnp.linalg.norm(move)
        cosine = jnp.vdot(move, last) / jnp.maximum(length * jnp.linalg.norm(last), jnp.finfo(move.dtype).tiny)
        angle = jnp.where(jnp.any(last != 0), jnp.arccos(jnp.clip(cosine, -1, 1)), jnp.zeros_like(length))
        return (inner, new, move), (logs, jnp.linalg.norm(new - self.start), length, angle)

    def iterate(self, carry: Any) -> PyTree:
        return self.step.iterate(carry[0])


def _spectrum(operator: JacobianOperator) -> tuple[Spectrum, bool]:
    """All eigenvalues `1 + z`, or those of largest modulus and of largest real part of `z`; the largest modulus first.

    Most directions of a large network are flat, so that most eigenvalues are nearly 1, where Arnoldi's method cannot
    tell them apart: it works on `z`, and what has not converged after some restarts is left out.
    """
    if operator.size <= _DENSE:
        return spectrum(operator), True
    both = [arnoldi(_Change(operator), _FEW, which, max_restarts=40) for which in ("LM", "LR")]
    values = 1 + np.concatenate([x[0] for x in both])
    vectors = np.concatenate([x[1] for x in both], axis=1)
    kept = [i for i, z in enumerate(values) if np.isfinite(z) and not np.any(np.abs(values[:i] - z) < 1e-6 * abs(z))]
    order = sorted(kept or [0], key=lambda i: -abs(values[i]))
    return Spectrum(values[order], vectors[:, order], operator.blocks), False


class _Change:
    """A Jacobian minus the identity, as Arnoldi's method sees it."""

    symmetric = False

    def __init__(self, operator: JacobianOperator):
        self.operator, self.size, self.dtype = operator, operator.size, operator.dtype

    def mv(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.operator.mv(vector) - vector


def _stability(operator: JacobianOperator, found: Spectrum, complete: bool) -> tuple[float | None, int]:
    """The factor of the learning rate at which more directions become unstable, and how many are at any.

    Without a state, `s` times the learning rate turns the eigenvalue 1 + z into 1 + s z, inside the unit circle for
    `s < -2 Re z / |z|^2`; never if `Re z >= 0`. With a state the players' rows of the Jacobian are scaled.
    """
    own = np.concatenate(operator.blocks)
    if not np.all(np.isfinite(found.eigenvalues)):
        return None, 0
    precision = math.sqrt(float(np.finfo(operator.dtype).eps))
    if len(own) == operator.size:
        z = found.eigenvalues - 1
        moves = np.abs(z) > precision
        repels = moves & (z.real >= -precision * np.abs(z))
        limits = [-2 * x.real / abs(x) ** 2 for x in z[moves & ~repels]]
        return (min(limits) if limits else math.inf), int(repels.sum())
    if not complete:
        return None, 0
    matrix = np.asarray(operator.dense(), np.float64)

    def num_unstable(scale):
        scaled = matrix.copy()
        scaled[own] = np.eye(len(matrix))[own] + scale * (matrix[own] - np.eye(len(matrix))[own])
        return int(np.sum(np.abs(np.linalg.eigvals(scaled)) > 1 + precision))

    at_any = num_unstable(0.05)
    scales = np.geomspace(0.05, 100, 60)
    above = next((k for k, scale in enumerate(scales) if num_unstable(scale) > at_any), None)
    if above is None:
        return math.inf, at_any
    low, high = scales[above - 1], scales[above]
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if num_unstable(middle) > at_any else (middle, high)
    return float(low), at_any


def _verdict(finite: bool, exponents: np.ndarray, distances: np.ndarray, turns: bool, num_steps: int) -> Verdict:
    if not finite or not np.all(np.isfinite(exponents)):
        return "diverges"
    largest, zero = float(exponents[0]), 2 / num_steps
    if largest < -zero:
        return "contracts"
    quarter = max(len(distances) // 4, 1)
    grows = distances[-quarter:].max() > 1.5 * distances[-2 * quarter : -quarter].max(initial=distances[0])
    if largest <= zero:
        return "circles" if turns else "neutral"
    if grows:
        return "circles" if turns else "diverges"
    return "chaotic"


def _leaf_shares(step: AbstractStep, carry: PyTree, found: Spectrum) -> tuple[tuple[str, ...], np.ndarray]:
    """The players' arrays by name, and the squared length of the leading eigenvector in each."""
    iterate = step.iterate(eqx.filter(carry, eqx.is_inexact_array))
    is_players = isinstance(iterate, tuple)
    own = found.eigenvectors[:, 0][np.concatenate(found.blocks)]
    names, squares, at = [], [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(iterate):
        first = f"player {path[0].idx + 1}" if is_players else "state"
        names.append(first + jax.tree_util.keystr(path[1:] if is_players else path))
        squares.append(np.sum(np.abs(own[at : at + leaf.size]) ** 2))
        at += leaf.size
    total = sum(squares)
    return tuple(names), np.array(squares) / (total if total > 0 else 1)


def _number(z: complex) -> str:
    return f"{z.real:.4g}" if abs(z.imag) <= 1e-6 * abs(z) else f"{z.real:.4g}±{abs(z.imag):.4g}i"


def _motion(z: complex) -> str:
    change = abs(z) - 1
    size = (
        "keeps its size"
        if abs(change) < 1e-6
        else f"{'grows' if change > 0 else 'shrinks'} by {abs(change):.2%} per step"
    )
    if abs(z.imag) > 1e-6 * abs(z):
        return f"it turns, {2 * math.pi / abs(np.angle(z)):.1f} steps per turn, and {size}"
    return f"it flips its sign at every step and {size}" if z.real < 0 else f"it keeps its sign and {size}"
