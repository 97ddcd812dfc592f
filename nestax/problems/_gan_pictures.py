"""Pictures of generated samples: points in the plane, and images."""

from os import PathLike
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from .._storage import save_figure


def plot_points(
    points: ArrayLike, path: str | PathLike[str], reference: ArrayLike | None = None, title: str = ""
) -> None:
    """Points in the plane as a scatter plot.

    **Arguments:**

    - `points`: shape `(num, 2)`. A few thousand are enough to see the density.
    - `path`: where to write the picture; its folder is made.
    - `reference`: points of the data, shape `(num, 2)`, in grey behind the others. They alone fix the axes, so that
      pictures along a training are comparable; points outside are not shown. Default `None`: no reference.
    - `title`: above the picture.

    **Raises** `ValueError` for points of another shape.
    """
    points = _check_points(points, "points")
    figure = _figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    if reference is not None:
        reference = _check_points(reference, "reference")
        axes.scatter(*reference.T, s=3, color="0.75", linewidths=0, label="data")
        low, high = reference.min(), reference.max()
        margin = 0.3 * (high - low)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    axes.scatter(*points.T, s=3, color="C0", linewidths=0, label="generated")
    axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize=8, markerscale=3)
    _save(figure, path, title)


def plot_images(images: ArrayLike, path: str | PathLike[str], columns: int = 10, title: str = "") -> None:
    """Images side by side, row by row.

    **Arguments:**

    - `images`: shape `(num, height, width)` or `(num, height, width, channels)` with 1 or 3 channels, values in [0, 1].
    - `path`: where to write the picture; its folder is made.
    - `columns`: images per row. Default 10: one row with one image of each of ten classes.
    - `title`: above the picture.

    **Raises** `ValueError` for images of another shape, or `columns` below 1.
    """
    images = np.asarray(images, np.float64)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[0] == 0 or images.shape[3] not in (1, 3):
        raise ValueError(
            "`images` must have shape (num, height, width), or (num, height, width, channels) with 1 or 3 channels, "
            f"got {images.shape}."
        )
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1, got {columns}.")
    num, height, width, channels = images.shape
    columns = min(columns, num)
    rows = -(-num // columns)
    sheet = np.ones((rows * columns, height + 1, width + 1, channels))  # one white line between images
    sheet[:num, :-1, :-1] = np.clip(images, 0, 1)
    sheet = sheet.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    figure = _figure(figsize=(0.6 * columns, 0.6 * columns * sheet.shape[0] / sheet.shape[1] + 0.4))
    axes = figure.add_axes((0, 0, 1, 1 if not title else 0.92))
    axes.imshow(sheet if channels == 3 else sheet[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.axis("off")
    _save(figure, path, title)


def _figure(**settings: Any) -> Any:
    import matplotlib.figure  # only here: it is slow to load

    return matplotlib.figure.Figure(**settings)


def _check_points(points: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        raise ValueError(f"`{name}` must have shape (num, 2), got {array.shape}.")
    return array


def _save(figure: Any, path: str | PathLike[str], title: str) -> None:
    if title:
        figure.suptitle(title)
    save_figure(path, figure, dpi=130)
