"""The structured best response: each layer's weights change by gates on its outputs (Self-Tuning Networks)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._gated import Gated, form, last_axes, num_outputs
from ._response_families import AbstractBestResponse


class StructuredResponse(AbstractBestResponse):
    r"""The best response in layers: each has a second weight $R$, whose outputs $\delta$ turns on and off.

    $$\hat W(\delta) = W + \operatorname{diag}(C \delta) R, \qquad \hat b(\delta) = b + (E \delta) \circ r$$

    It has the form of the exact response of a network with two linear layers and a penalty on its Jacobian, and as many
    parameters as twice the weights and $n$ per output of a weight or a bias. $C = E = 0$ at the start, $R$ is normal
    with the standard deviation of $W$, and $r = 1$.

    As an argument of `Hypernetwork` it serves any nested problem, with one draw of hyperparameters for all examples of
    a batch; `SelfTuning` makes it itself, and draws for each example.

    **Arguments:** `output_axes`: a function from weights to the `nestax.networks.OutputAxis` of every array, such as
    the method of that name of a network; `None` in the place of one for an array that is not to respond. By default
    outputs lie on the last axis of every array, as in the networks of this library.

    **Raises** `ValueError` where no array responds.

    **Source:** M. MacKay, P. Vicol, J. Lorraine, D. Duvenaud, R. Grosse, *Self-Tuning Networks*, ICLR 2019, equation
    12; $C = E = 0$ as in the code of J. Bae, R. Grosse, *Delta-STN*, NeurIPS 2020. **Deviation:** $r$ is drawn there
    as biases are, which gives a response of zero forever where they start at zero.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> weights = nx.networks.MLP((20,)).init(jax.random.key(0), (8, 8), 10)
    >>> parameters = nx.hyper.StructuredResponse().init(jax.random.key(0), 3, weights)
    >>> sum(leaf.size for leaf in jax.tree.leaves(parameters))  # 2 · 1,510 + 3 · 2 · (20 + 10)
    3200

    ```
    """

    output_axes: Callable[[PyTree], PyTree] = last_axes

    def init(self, key: PRNGKeyArray, num_hyperparameters: int, weights: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(weights)
        axes = structure.flatten_up_to(self.output_axes(weights))
        if all(axis is None for axis in axes):
            raise ValueError(
                "There is no layer to wrap: no array of the weights has outputs. Look at what `output_axes` returns."
            )
        responses, gates = [], []
        for w, axis, k in zip(leaves, axes, jax.random.split(key, len(leaves))):
            if axis is None:
                responses.append(None)
                gates.append(None)
                continue
            stack, outputs, inputs = num_outputs(w, axis)
            responses.append(
                jnp.ones_like(w) if inputs == 1 else _deviation(w, inputs) * jax.random.normal(k, w.shape, w.dtype)
            )
            gates.append(jnp.zeros((*stack, outputs, num_hyperparameters), w.dtype))
        return {
            "weights": weights,
            "responses": jax.tree.unflatten(structure, responses),
            "gates": jax.tree.unflatten(structure, gates),
        }

    def __call__(self, parameters: PyTree, delta: Float[Array, " hyperparameters"]) -> PyTree:
        def one(weight, response, gate, axis):
            return form(weight, response, gate @ delta.astype(gate.dtype), axis.output)

        return self._map(one, parameters)

    def gated(self, parameters: PyTree, deltas: Float[Array, "examples hyperparameters"]) -> PyTree:
        r"""The weights under a $\delta$ per example, not formed: a `nestax.networks.Gated` for each that responds."""

        def one(weight, response, gate, axis):
            gates = jnp.einsum("...on,bn->...bo", gate, deltas.astype(gate.dtype))
            return Gated(weight, response, gates, axis.output)

        return self._map(one, parameters)

    def _map(self, function: Callable[..., Any], parameters: PyTree) -> PyTree:
        weights, structure = jax.tree.flatten(parameters["weights"])
        rest = [parameters["responses"], parameters["gates"], self.output_axes(parameters["weights"])]
        several = zip(weights, *(structure.flatten_up_to(tree) for tree in rest))
        return jax.tree.unflatten(structure, [w if r is None else function(w, r, g, a) for w, r, g, a in several])


def _deviation(weight: Float[Array, "..."], inputs: int) -> Float[Array, ""]:
    """Of the entries of a weight; where all are equal, that of a usual initialization."""
    deviation = jnp.std(weight)
    return jnp.where(deviation > 0, deviation, jnp.asarray(inputs**-0.5, weight.dtype))
