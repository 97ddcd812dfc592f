"""Maps over planes: the right value at the right place, and the measures of ridges that the recipes take from them."""

import jax.numpy as jnp
import numpy as np
import pytest

from nestax import dynamics as nd
from nestax.recipes.lyapunov import _planes

PLANE = nd.Plane((jnp.array([1.0, 0.0]),), (jnp.array([1.0, 1.0]),), (jnp.array([0.0, 2.0]),), 0.0, 1.0, 3)


def test_values_are_where_the_plane_says(tmp_path):
    """At (s, t) the point is (1 + s, s + 2 t); the function tells both coordinates apart."""
    found = nd.heat_map(lambda players: players[0][0] + 10 * players[0][1], PLANE, batch_size=4)
    ticks = np.array([0, 0.5, 1])
    expected = (1 + ticks[:, None]) + 10 * (ticks[:, None] + 2 * ticks[None, :])
    np.testing.assert_allclose(found.values, expected)
    found.plot(tmp_path / "map.png", title="map", label="value", points=jnp.array([[0.5, 0.5]]))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_plane_of_two_scalars():
    points = nd.Plane.of_scalars(-1.0, 1.0, 2).points()
    np.testing.assert_array_equal(points[0], [-1, -1, 1, 1])
    np.testing.assert_array_equal(points[1], [-1, 1, -1, 1])


@pytest.mark.usefixtures("unchecked")
def test_refuses():
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        nd.Plane.of_scalars(1.0, 1.0)
    with pytest.raises(ValueError, match="`second"):
        nd.Plane((jnp.zeros(2),), (jnp.zeros(2),), (jnp.zeros(3),))


def test_boundaries_and_ranks():
    labels = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1]])
    edge = _planes.boundary(labels)
    np.testing.assert_array_equal(edge, [[False, True, True]] * 3)
    assert _planes.ranked_above(np.where(edge, 2.0, 1.0), edge) == 1
    assert _planes.ranked_above(np.ones((3, 3)), edge) == 0.5
    assert np.isnan(_planes.ranked_above(np.ones((3, 3)), np.zeros((3, 3), bool)))
    ends = np.array([[5.0, 5.0], [-5.0, -5.0], [0.1, -0.2], [5.0, -5.0]])
    np.testing.assert_array_equal(_planes.modes(ends), [0, 1, 2, 3])
