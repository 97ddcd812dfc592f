"""A coordinatewise learned optimizer array by array, each in its own shape: for parameters that are sharded."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import describe
from .._mesh import lay_like
from .._optimizer import AbstractGradientOptimizer
from .._tree import check_same_structure, upcast_dtype, with_static
from ._base import AbstractCoordinatewise, CoordinatewiseState


class Leafwise(AbstractGradientOptimizer):
    r"""A coordinatewise learned optimizer on every array of the parameters by itself.

    By default all coordinates are raveled into one vector, which is fast, and on one device. Here every array keeps its
    shape, its state has that shape with the units in front, and everything is elementwise along it. So the state is
    sharded as the parameters are, on meshes with automatic and with explicit axes, and no device ever holds more than
    its share: nothing is raveled, concatenated or gathered. The updates are those of `optimizer` up to rounding.

    For one device, or copies of all parameters on every device, it is the slower form: one product per array.

    **Arguments:** `optimizer`: a coordinatewise one, such as `RNNprop` or `L2ODM`; trained or loaded before, since this
    form has no files of its own.

    **Raises** `ValueError` for an optimizer that is not coordinatewise.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> optimizer = nx.learned.Leafwise(nx.learned.pretrained())
    >>> params = {"w": jnp.ones((8, 3)), "b": jnp.ones(3)}  # sharded or not
    >>> transformation = optimizer.as_optax()
    >>> updates, state = transformation.update(params, transformation.init(params), params)

    ```
    """

    optimizer: AbstractCoordinatewise

    def __check_init__(self):
        if not isinstance(self.optimizer, AbstractCoordinatewise):
            raise ValueError(
                "`Leafwise` is for coordinatewise learned optimizers such as `RNNprop`, got "
                f"{describe(self.optimizer)}."
            )

    def exact(self) -> "Leafwise":
        return with_static(self, optimizer=self.optimizer.exact())

    def init_update(self, params: PyTree) -> tuple[CoordinatewiseState, ...]:
        return tuple(_init_leaf(self.optimizer, x) for x in jax.tree.leaves(params))

    def update(
        self, gradients: PyTree, state: tuple[CoordinatewiseState, ...], params: PyTree, **extra: Any
    ) -> tuple[PyTree, tuple[CoordinatewiseState, ...]]:
        del extra
        check_same_structure(gradients, params, "gradients")
        leaves, structure = jax.tree.flatten(gradients)
        updates, states = zip(*(_update_leaf(self.optimizer, x, s) for x, s in zip(leaves, state)), strict=True)
        return jax.tree.unflatten(structure, updates), states


@eqx.filter_jit  # so that outside of `jit`, too, only the shares of large arrays are ever made
def _init_leaf(optimizer: AbstractCoordinatewise, x: Array) -> CoordinatewiseState:
    dtype, shape = upcast_dtype(x.dtype), x.shape or (1,)

    def row() -> CoordinatewiseState:
        num = shape[-1]
        return CoordinatewiseState(optimizer.init_features(num, dtype), optimizer.network.init_state(num, dtype))

    def grow(y: Array) -> Array:
        """An array of one row, whose last axis are coordinates, for all rows."""
        if y.ndim == 0:
            return y
        lead = y.shape[:-1]
        wide = y.reshape(*lead, *(1 for _ in shape[:-1]), shape[-1])
        return lay_like(jnp.broadcast_to(wide, (*lead, *shape)), x)

    return jax.tree.map(grow, row())


def _update_leaf(
    optimizer: AbstractCoordinatewise, gradient: Array, state: CoordinatewiseState
) -> tuple[Array, CoordinatewiseState]:
    """The update of one array of any shape: of its rows, by `vmap` over all axes but the last."""
    dtype = upcast_dtype(gradient.dtype)
    network = optimizer.cast_network(dtype)

    def of_row(gradient: Float[Array, " n"], state: CoordinatewiseState):
        features, feature_state = optimizer.features(gradient, state.features)
        output, network_state = network(features, state.network)
        return optimizer.scale_output(output), CoordinatewiseState(feature_state, network_state)

    g = gradient.astype(dtype)
    g = g if optimizer.second_derivatives else jax.lax.stop_gradient(g)
    g = g if g.ndim else g[None]
    function = of_row
    for axis in range(2, g.ndim + 1):  # counted from the end, where the coordinates are
        axes = jax.tree.map(lambda x, axis=axis: -axis if x.ndim else None, state)
        function = jax.vmap(function, in_axes=(0, axes), out_axes=(0, axes))
    update, state = function(g, state)
    return update.reshape(gradient.shape).astype(gradient.dtype), state
