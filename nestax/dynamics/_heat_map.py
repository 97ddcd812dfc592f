"""A function of the players over a plane: a picture of where runs separate."""

import dataclasses
from collections.abc import Callable
from os import PathLike

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from .._mesh import Devices, fetch, replicate, resolve, spread_padded
from .._problem import Players
from .._storage import save_figure
from .._tree import check_same_structure


class Plane(eqx.Module):
    r"""A piece of a plane in the space of the players: $w + s\, d_1 + t\, d_2$.

    **Arguments:**

    - `origin`: $w$, players.
    - `first`, `second`: $d_1, d_2$, players. `Plane.of_scalars` makes the plane of a game of two scalars.
    - `low`, `high`: the range of $s$ and of $t$. Default -3 to 3.
    - `resolution`: points per axis. Default 41.
    """

    origin: Players
    first: Players
    second: Players
    low: float = eqx.field(static=True, default=-3.0)
    high: float = eqx.field(static=True, default=3.0)
    resolution: int = eqx.field(static=True, default=41)

    def __check_init__(self):
        check_same_structure(self.first, self.origin, "first")
        check_same_structure(self.second, self.origin, "second")
        if self.resolution < 2 or not self.low < self.high:
            raise ValueError(
                "`low` must be below `high`, and `resolution` at least 2, got "
                f"{self.low}, {self.high} and {self.resolution}."
            )

    @staticmethod
    def of_scalars(low: float = -3.0, high: float = 3.0, resolution: int = 41) -> "Plane":
        """The plane of a game whose two players are scalars: the first player to the right, the second up."""
        zero, one = jnp.zeros(()), jnp.ones(())
        return Plane((zero, zero), (one, zero), (zero, one), low, high, resolution)

    @property
    def ticks(self) -> np.ndarray:
        """The values of $s$, and of $t$."""
        return np.linspace(self.low, self.high, self.resolution)

    def points(self) -> Players:
        """All points, with one leading axis: $t$ varies faster."""
        ticks = jnp.asarray(self.ticks)
        s, t = (x.reshape(-1) for x in jnp.meshgrid(ticks, ticks, indexing="ij"))

        def at(s, t):
            return jax.tree.map(
                lambda w, a, b: w + s.astype(w.dtype) * a + t.astype(w.dtype) * b, self.origin, self.first, self.second
            )

        return jax.vmap(at)(s, t)


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """The result of `heat_map`: `values` of shape `(resolution, resolution)`, indexed by $s$, then $t$; and the
    plane."""

    values: np.ndarray
    plane: Plane

    def plot(
        self,
        path: str | PathLike[str],
        *,
        title: str = "",
        label: str = "",
        points: Float[Array, "points 2"] | None = None,
    ) -> None:
        """Writes a picture; its ending says the format. `points` are drawn as dots: ends of an ascent, solutions."""
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(5.4, 4.4), layout="constrained")
        axes = figure.subplots()
        ticks = self.plane.ticks
        image = axes.pcolormesh(ticks, ticks, self.values.T, shading="nearest", cmap="viridis")
        figure.colorbar(image, ax=axes, label=label)
        if points is not None:
            axes.plot(*np.asarray(points).T, ".", color="red", markersize=4)
        axes.set_xlabel("first direction")
        axes.set_ylabel("second direction")
        if title:
            figure.suptitle(title)
        save_figure(path, figure)


def heat_map(
    function: Callable[[Players], Float[Array, ""]], plane: Plane, *, batch_size: int = 256, mesh: Devices = None
) -> HeatMap:
    """A function of the players at every point of a plane, such as an exponent or the entropy.

    **Arguments:** `function`: from players to a number; it is batched and compiled. `plane`: where. `batch_size`: how
    many points are computed together. Default 256. `mesh`: which devices share the points, as for `nestax.spread`.

    **Example**

    ```python
    >>> import nestax as nx
    >>> game, optimizer = nx.problems.mixed_dilemma(), nx.optimizers.sgd(1.0)
    >>> def largest(players):
    ...     return nx.dynamics.lyapunov_exponents(game, optimizer, players, num_steps=10).exponents[0]
    >>> picture = nx.dynamics.heat_map(largest, nx.dynamics.Plane.of_scalars(-3.0, 3.0, resolution=5))
    >>> picture.values.shape
    (5, 5)

    ```
    """

    points = plane.points()
    devices = resolve(mesh, plane.resolution**2)
    values = fetch(_mapped(function, replicate(devices, points), batch_size, devices))
    return HeatMap(values.reshape(plane.resolution, plane.resolution), plane)


@eqx.filter_jit
def _mapped(function, points, batch_size, mesh):
    return spread_padded(mesh, Partial(_map, function, batch_size), points)


def _map(function, batch_size, points):
    return jax.lax.map(function, points, batch_size=min(batch_size, jax.tree.leaves(points)[0].shape[0]))
