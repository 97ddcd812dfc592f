"""The tree of a branching search, as a value: printed, drawn, saved, loaded."""

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._problem import Players
from .._storage import CheckpointError, StoredTree, reading, save_arrays, save_figure
from ._coordinates import ravel_real

OPEN, SOLUTION, REJECTED, FAILED = range(4)
_KIND = "branching-tree"
_STATES = ("open", "solution", "rejected", "diverged")
ARRAYS = ("parents", "depths", "signs", "moves", "states", "values", "directions", "ends", "losses", "residuals")
"""The fields of a tree with one row per node."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """The result of `branch`. Node 0 is the starting point; every other node is a branch: it leaves the end of its
    parent
    along a direction, and ends where the optimizer has brought it.

    One row per node, in the order in which they were found:

    - `parents`: the node that it leaves from; -1 for the start.
    - `depths`, `signs`: 1 for branches from the start; along the direction (1) or against it (-1).
    - `moves`: by which of the method's moves.
    - `states`: 0 open (not tried yet), 1 a solution, 2 rejected by the verification, 3 diverged. The start is 2.
    - `values`: the complex eigenvalue (or singular value) of the direction.
    - `directions`, `ends`: shape `(nodes, dim)`: unit vectors, and points in flat coordinates.
    - `losses`: shape `(nodes, players)`. `residuals`: how far a step of the optimizer moves the end.

    And of the whole:

    - `solutions`: the nodes of distinct solutions, the best first.
    - `copies`: for each of these, how many branches ended in it.
    - `num_gradients`: gradients spent, as optimizers count them; a product with a Jacobian counts two gradients of what
      is differentiated.
    - `exhausted`: whether the budget ended before the branches did. Pass the tree to `branch` to go on.
    - `facts`: what is known of the start, such as its exponent.
    - `example`: players, for their structure.
    """

    parents: np.ndarray
    depths: np.ndarray
    signs: np.ndarray
    moves: np.ndarray
    states: np.ndarray
    values: np.ndarray
    directions: np.ndarray
    ends: np.ndarray
    losses: np.ndarray
    residuals: np.ndarray
    solutions: tuple[int, ...]
    copies: tuple[int, ...]
    num_gradients: float
    exhausted: bool
    facts: dict[str, float]
    example: Players

    @property
    def num_branches(self) -> int:
        """The number of branches, tried or not."""
        return len(self.parents) - 1

    def players(self, node: int) -> Players:
        """The end of a node as players."""
        flat, unravel = ravel_real(self.example)
        return unravel(jnp.asarray(self.ends[node], flat.dtype))

    def __str__(self) -> str:
        lines = []

        def show(node, prefix, last):
            mark = "" if node == 0 else prefix + ("└─ " if last else "├─ ")
            lines.append(mark + self._describe(node))
            children = np.flatnonzero(self.parents == node)
            for child in children:
                show(int(child), prefix + ("" if node == 0 else "   " if last else "│  "), child == children[-1])

        show(0, "", True)
        tail = "; the budget is exhausted, more branches are open" if self.exhausted else ""
        found = f"{len(self.solutions)} distinct solution{'' if len(self.solutions) == 1 else 's'}"
        lines.append(f"{self.num_branches} branches, {found}, {self.num_gradients:,.0f} gradients{tail}")
        return "\n".join(lines)

    def _describe(self, node: int) -> str:
        losses = " ".join(f"{x:.3f}" for x in self.losses[node])
        if node == 0:
            facts = "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in self.facts.items())
            return f"start: losses {losses}{facts}"
        value = self.values[node]
        shown = f"{value.real:.3g}" if value.imag == 0 or np.isnan(value) else f"{value.real:.3g}±{value.imag:.3g}i"
        label = f"{'+' if self.signs[node] > 0 else '−'} ({shown})"
        if self.states[node] == OPEN:
            return f"{label} open"
        rank = f" [{self.solutions.index(node) + 1}]" if node in self.solutions else ""
        state = "" if self.states[node] == SOLUTION else f" {_STATES[self.states[node]]}"
        return f"{label} losses {losses}{rank}{state}"

    def plot(self, path: str | PathLike[str], *, title: str = "") -> None:
        """Writes the tree as a picture: leaves in a column, coloured by the first player's loss, solutions numbered."""
        import matplotlib.figure

        heights = self._heights()
        figure = matplotlib.figure.Figure(figsize=(5.6, max(2.5, 0.24 * len(set(heights)) + 1)), layout="constrained")
        axes = figure.subplots()
        for node in range(1, len(heights)):
            parent = self.parents[node]
            x, y = [self.depths[parent], self.depths[node]], [heights[parent], heights[node]]
            middle = np.linspace(0, 1, 20)
            bend = middle**2 * (3 - 2 * middle)
            style = ":" if self.states[node] in (OPEN, FAILED) else "-"
            axes.plot(x[0] + middle * (x[1] - x[0]), y[0] + bend * (y[1] - y[0]), style, color="gray", linewidth=0.8)
        dots = axes.scatter(
            self.depths, heights, c=self.losses[:, 0], s=28, cmap="viridis", zorder=3, edgecolors="black"
        )
        figure.colorbar(dots, ax=axes, label="loss of the first player")
        for rank, node in enumerate(self.solutions, 1):
            losses = " ".join(f"{x:.2f}" for x in self.losses[node])
            axes.annotate(f"  {rank}: {losses}", (self.depths[node], heights[node]), va="center", fontsize=8)
        axes.set_xlim(-0.2, self.depths.max() + 0.6)
        axes.set_xticks(range(int(self.depths.max()) + 1))
        axes.set_xlabel("depth")
        axes.set_yticks([])
        if title:
            figure.suptitle(title)
        save_figure(path, figure)

    def _heights(self) -> np.ndarray:
        """Leaves one below the other, a parent in the middle of its children."""
        heights, counter = np.zeros(len(self.parents)), 0

        def place(node):
            nonlocal counter
            children = np.flatnonzero(self.parents == node)
            for child in children:
                place(child)
            if len(children):
                heights[node] = heights[children].mean()
            else:
                heights[node], counter = -counter, counter + 1

        place(0)
        return heights

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the tree as safetensors with a JSON header. No pickle."""
        header: dict[str, Any] = {
            "kind": _KIND,
            "solutions": list(self.solutions),
            "copies": list(self.copies),
            "num_gradients": self.num_gradients,
            "exhausted": self.exhausted,
            "facts": self.facts,
        }
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays["values"] = np.stack([self.values.real, self.values.imag], axis=-1)
        save_arrays(Path(path), arrays, header)

    @staticmethod
    def load(path: str | PathLike[str], example: Players) -> "Tree":
        """Reads what `save` wrote. **Arguments:** `example`: players of the problem, such as `problem.init(key)`.

        **Raises** `CheckpointError` for a file that is damaged or holds something else, or another number of
        coordinates.
        """
        stored = StoredTree(Path(path))
        header, found = stored.header, stored.arrays
        if header.get("kind") != _KIND:
            raise CheckpointError(f"{path}: field 'kind' is {header.get('kind')!r}, expected {_KIND!r}.")
        missing = set(ARRAYS) - set(found)
        if missing:
            raise CheckpointError(f"{path}: field '{min(missing)}' is missing.")
        with reading(path):
            dim = sum(x.size for x in jax.tree.leaves(example))
            if found["ends"].shape[1] != dim:
                raise CheckpointError(
                    f"{path}: the tree has {found['ends'].shape[1]} coordinates, the players have {dim}."
                )
            found["values"] = found["values"][:, 0] + 1j * found["values"][:, 1]
            return Tree(
                **{name: found[name] for name in ARRAYS},
                solutions=tuple(header["solutions"]),
                copies=tuple(header["copies"]),
                num_gradients=header["num_gradients"],
                exhausted=header["exhausted"],
                facts=header["facts"],
                example=example,
            )
