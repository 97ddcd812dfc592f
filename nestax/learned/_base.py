"""What every learned optimizer has, and the coordinatewise ones share."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._optimizer import AbstractGradientOptimizer, AbstractOptimizer
from .._tree import check_same_structure, common_dtype, with_static
from ._network import CoordinatewiseLSTM
from ._network_gradient import weighted_outputs_gradient


class AbstractLearnedOptimizer(AbstractOptimizer):
    r"""An optimizer whose rule has meta-parameters $\phi$ that meta-training learns."""

    @abc.abstractmethod
    def meta_parameters(self) -> PyTree[bool]:
        """A filter over `self`: true at the leaves that meta-training changes.

        The other array leaves (output scale, decays) are hyperparameters, which meta-training leaves alone.
        """

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """The keyword arguments (JSON values) that make an optimizer of the same structure and hyperparameters."""


class CoordinatewiseState(eqx.Module):
    """State of a coordinatewise optimizer over `n` coordinates: the features' and the network's, side by side."""

    features: PyTree
    network: PyTree


class AbstractCoordinatewise(AbstractLearnedOptimizer, AbstractGradientOptimizer):
    r"""A first-order learned optimizer that applies one small recurrent network to every coordinate alike.

    $u_i = \mathrm{scale}(\mathrm{network}_\phi(\mathrm{features}(g_i)))$ with its own recurrent state per coordinate.
    All leaves are raveled into one vector, so an update on a pytree is the update on the concatenated vector. It
    computes in float32 at least (in float64 if the parameters are) and returns updates in the parameters' dtypes.
    """

    network: eqx.AbstractVar[CoordinatewiseLSTM]
    second_derivatives: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def init_features(self, num: int, dtype: Any) -> PyTree:
        """The state from which features of `num` coordinates are computed."""

    @abc.abstractmethod
    def features(self, gradient: Float[Array, " n"], state: PyTree) -> tuple[Float[Array, "features n"], PyTree]:
        """The network's inputs. They depend on gradients alone, so they are constants for the meta-gradient."""

    @abc.abstractmethod
    def scale_output(self, output: Float[Array, " n"]) -> Float[Array, " n"]:
        """The update, from the network's raw output. Elementwise."""

    def meta_parameters(self) -> PyTree[bool]:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda o: o.network, nothing, jax.tree.map(eqx.is_inexact_array, self.network))

    def exact(self) -> "AbstractCoordinatewise":
        return with_static(self, second_derivatives=True)

    def flat_gradient(self, gradients: PyTree) -> Float[Array, " n"]:
        """All gradients as one vector in the dtype of the computation, held constant unless `second_derivatives`."""
        dtype = common_dtype(gradients, jnp.float32)
        flat = jnp.concatenate([x.astype(dtype).ravel() for x in jax.tree.leaves(gradients)])
        return flat if self.second_derivatives else jax.lax.stop_gradient(flat)

    def cast_network(self, dtype: Any) -> CoordinatewiseLSTM:
        """The network with its weights in `dtype`."""
        return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, self.network)

    def network_gradient(
        self, features: Float[Array, "steps features n"], state: PyTree, cotangents: Float[Array, "steps n"]
    ) -> CoordinatewiseLSTM:
        r"""The gradient of $\sum_t \langle w_t, u_t \rangle$ with respect to the network, for its outputs $u_t$.

        The network is run from `state` over `features`, and $w_t$ are the `cotangents`, all held constant.
        """
        network = self.cast_network(cotangents.dtype)
        gradient = weighted_outputs_gradient(network, features, state, cotangents, self.scale_output)
        return jax.tree.map(lambda g, w: g.astype(w.dtype), gradient, eqx.filter(self.network, eqx.is_array))

    def init_update(self, params: PyTree) -> CoordinatewiseState:
        flat = self.flat_gradient(params)
        return CoordinatewiseState(
            self.init_features(flat.size, flat.dtype), self.network.init_state(flat.size, flat.dtype)
        )

    def update(
        self, gradients: PyTree, state: CoordinatewiseState, params: PyTree, **extra: Any
    ) -> tuple[PyTree, CoordinatewiseState]:
        del extra
        check_same_structure(gradients, params, "gradients")
        flat = self.flat_gradient(gradients)
        features, feature_state = self.features(flat, state.features)
        output, network_state = self.cast_network(flat.dtype)(features, state.network)
        updates = unravel_like(self.scale_output(output), params)
        return updates, CoordinatewiseState(feature_state, network_state)


def unravel_like(flat: Float[Array, " n"], like: PyTree) -> PyTree:
    """Cuts `flat` into the leaves of `like`, in their shapes and dtypes."""
    leaves, structure = jax.tree.flatten(like)
    pieces, start = [], 0
    for leaf in leaves:
        pieces.append(flat[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(structure, pieces)
