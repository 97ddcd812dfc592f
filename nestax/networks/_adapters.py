"""Networks of other libraries as architectures: Equinox modules, and any pair of `init` and `apply`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._gated import OutputAxis, is_gated
from .._tree import default_float
from ._architecture import AbstractArchitecture, Site, gates_mapped, unchanged

Make = Callable[[PRNGKeyArray], eqx.Module]
Prepare = Callable[[Array], Array]


class FromEquinox(AbstractArchitecture):
    """An Equinox module as an architecture. The module maps **one** example to its logits; a batch is a `vmap` over it.

    Its floating-point arrays are the parameters; all else (activation functions, integer arrays) is kept beside them.

    **Arguments:**

    - `make`: a function of a key that returns the module, so that another key is another initial point; or a module,
      which is then where every run starts, whatever the key.
    - `prepare`: a function of one example that is called before the module, such as `jnp.ravel` for a module of flat
      inputs, or `lambda x: x.transpose(2, 0, 1)` for Equinox's convolutions, which want channels first. Pass a
      module-level function: a new lambda each time compiles anew each time. Default `None`: nothing.

    Normalization with a state that is not trained, and layers that need a key, are not for this class: pass a loss to
    `nestax.problems.FromLoss`, with `has_aux=True` for the state. Layers here have no sites, so families of
    hyperparameters that act on activations refuse them; those that act on weights, batches or the loss work.

    **Raises** `ValueError` for anything but a module, or a function that returns one.

    **Example**

    ```python
    >>> import equinox as eqx, jax, nestax as nx
    >>> network = nx.networks.FromEquinox(lambda key: eqx.nn.MLP(64, 10, 20, depth=1, key=key), prepare=jax.numpy.ravel)
    >>> problem = nx.problems.Classifier(nx.data.digits(), network)
    >>> solution = nx.solve(problem, nx.optimizers.adam(0.01), num_steps=2, key=jax.random.key(0))

    ```
    """

    buffers: PyTree  # arrays that are not trained
    initial: PyTree  # the parameters of a finished module
    make: Make | None = eqx.field(static=True)
    prepare: Prepare | None = eqx.field(static=True)
    rest: tuple[Any, ...] = eqx.field(static=True)  # leaves that are no arrays, and their places
    structure: Any = eqx.field(static=True)

    def __init__(self, make: Make | eqx.Module, prepare: Prepare | None = None):
        finished = isinstance(make, eqx.Module)
        if not finished and not callable(make):
            raise ValueError(f"`make` must be an Equinox module or a function of a key that returns one, got {make!r}.")
        module = make if finished else make(jax.random.key(0))
        if not isinstance(module, eqx.Module):
            raise ValueError(f"`make` must return an Equinox module, got a {type(module).__name__}.")
        arrays, rest = eqx.partition(module, eqx.is_array)
        params, self.buffers = eqx.partition(arrays, eqx.is_inexact_array)
        leaves, self.structure = jax.tree.flatten(rest)
        self.rest = tuple(leaves)
        self.initial = params if finished else None
        self.make = None if finished else make
        self.prepare = prepare

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> PyTree[Float[Array, "..."]]:
        params = self.initial if self.make is None else eqx.filter(self.make(key), eqx.is_inexact_array)
        check_network(self, params, input_shape, num_classes)
        return params

    def __call__(
        self, params: PyTree[Float[Array, "..."]], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        del site
        module = self.module(params)
        return jax.vmap(lambda x: module(x if self.prepare is None else self.prepare(x)))(inputs)

    def each(self) -> AbstractArchitecture:
        return EachEquinox(self)

    def output_axes(self, params: PyTree) -> PyTree:
        """The weights and biases of all linear and convolutional layers of the module respond, and no other array.

        **Raises** `ValueError` where there is no such layer.
        """
        found = 0

        def axes(node):
            nonlocal found
            found += _is_layer(node)
            return jax.tree.map(lambda _: OutputAxis(0) if _is_layer(node) else None, node)

        tree = jax.tree.map(axes, params, is_leaf=_is_layer)
        if not found:
            raise ValueError(
                f"There is no layer to wrap in {type(self.module(params)).__name__}: looked for `equinox.nn.Linear`, "
                "`equinox.nn.Conv` and `equinox.nn.ConvTranspose`, at any depth. For a module that holds its weights "
                "itself, `nestax.hyper.Hypernetwork(StructuredResponse(output_axes))` says where their outputs lie."
            )
        return tree

    def module(self, params: PyTree[Float[Array, "..."]]) -> Any:
        """The Equinox module with these parameters, to use, save or inspect."""
        return eqx.combine(params, self.buffers, jax.tree.unflatten(self.structure, self.rest))


class EachEquinox(AbstractArchitecture):
    """A `FromEquinox` for parameters of which some are `Gated`: a pass over the module's tree wraps their layers."""

    network: FromEquinox

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> PyTree[Float[Array, "..."]]:
        return self.network.init(key, input_shape, num_classes)

    def __call__(
        self, params: PyTree[Float[Array, "..."]], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        del site
        network = self.network

        def one(params, x):
            trees = {
                name: jax.tree.map(
                    lambda w, name=name: getattr(w, name) if is_gated(w) else w, params, is_leaf=is_gated
                )
                for name in ("weight", "response", "gate")
            }
            # three modules, whose layers are put together; all else is the same in the three
            modules = [network.module(tree) for tree in trees.values()]
            module = jax.tree.map(
                lambda layer, *more: GatedLayer(layer, *more) if _is_layer(layer) else layer,
                *modules,
                is_leaf=_is_layer,
            )
            return module(x if network.prepare is None else network.prepare(x))

        return gates_mapped(one, params, inputs)

    def output_axes(self, params: PyTree) -> PyTree:
        return self.network.output_axes(params)


class GatedLayer(eqx.Module):
    r"""A layer of Equinox with the response of a structured hypernetwork, for one example.

    $$y = W x + b + g \circ (R x) + g' \circ r$$

    - `layer`: an `equinox.nn.Linear`, `Conv` or `ConvTranspose` with $W$ and $b$.
    - `response`: one with $R$ and $r$.
    - `gate`: one with $g$ and $g'$ in the places of weight and bias: a number per output, or per output channel.
    """

    layer: Any
    response: Any
    gate: Any

    def __call__(self, x: Float[Array, "..."], *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]:
        del key
        bias = self.response.bias
        plain = self.response if bias is None else eqx.tree_at(lambda l: l.bias, self.response, jnp.zeros_like(bias))
        out, response = self.layer(x), plain(x)

        def spread(gate):
            return gate.reshape(*gate.shape[: out.ndim], *(1,) * (out.ndim - 1))

        out = out + spread(self.gate.weight) * response
        return out if bias is None else out + spread(self.gate.bias * bias.reshape(-1))


def _is_layer(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear | eqx.nn.Conv | eqx.nn.ConvTranspose)


class FromInitApply(AbstractArchitecture):
    """A pair of functions as an architecture, as `flax.linen` and Haiku make them.

    **Arguments:**

    - `init`: `init(key, inputs)` draws a pytree of floating-point arrays for a batch of inputs.
    - `apply`: `apply(params, inputs)` returns the logits of a batch.

    A `flax.linen` module `m` is `FromInitApply(m.init, m.apply)`. One of `flax.nnx` goes by its functional form:
    `graph, _ = nnx.split(model)`, then `init=lambda key, x: nnx.state(Model(nnx.Rngs(key)))` and
    `apply=lambda params, x: nnx.merge(graph, params)(x)`. Inputs keep their axes (height, width, channels).

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> def init(key, inputs):
    ...     return {"w": 0.01 * jax.random.normal(key, (inputs[0].size, 10))}
    >>> def apply(params, inputs):
    ...     return inputs.reshape(inputs.shape[0], -1) @ params["w"]
    >>> problem = nx.problems.Classifier(nx.data.digits(), nx.networks.FromInitApply(init, apply))
    >>> solution = nx.solve(problem, nx.optimizers.adam(0.01), num_steps=2, key=jax.random.key(0))

    ```
    """

    initialize: Callable[[PRNGKeyArray, Array], PyTree] = eqx.field(static=True)
    apply: Callable[[PyTree, Array], Array] = eqx.field(static=True)

    def __init__(self, init: Callable[[PRNGKeyArray, Array], PyTree], apply: Callable[[PyTree, Array], Array]):
        for name, value in (("init", init), ("apply", apply)):
            if not callable(value):
                raise ValueError(f"`{name}` must be a function, got {value!r}.")
        self.initialize, self.apply = init, apply

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> PyTree[Float[Array, "..."]]:
        params = self.initialize(key, jnp.zeros((1, *input_shape), default_float()))
        check_network(self, params, input_shape, num_classes)
        return params

    def __call__(
        self, params: PyTree[Float[Array, "..."]], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        del site
        return self.apply(params, inputs)


def as_architecture(network: Any, name: str = "network") -> AbstractArchitecture:
    """`network` itself, or the architecture that it makes.

    **Arguments:**

    - `network`: an `AbstractArchitecture`; an Equinox module, or a function of a key that returns one (`FromEquinox`);
      or an object with methods `init` and `apply`, such as a `flax.linen` module (`FromInitApply`).
    - `name`: the argument that an error message speaks of.

    **Raises** `ValueError` for anything else.
    """
    if isinstance(network, AbstractArchitecture):
        return network
    if not isinstance(network, type):
        if callable(getattr(network, "init", None)) and callable(getattr(network, "apply", None)):
            return FromInitApply(network.init, network.apply)
        if callable(network):
            return FromEquinox(network)  # pyright: ignore[reportArgumentType]
    raise ValueError(
        f"`{name}` must be an `AbstractArchitecture` such as `nestax.networks.MLP()`, an Equinox module, a function of "
        f"a key that returns one, or an object with `init` and `apply`, got {network!r}."
    )


def check_network(network: Any, params: PyTree, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Raises `ValueError` unless a batch of examples of `input_shape` gives one logit per class, without running it."""
    dtypes = {x.dtype for x in jax.tree.leaves(params)}
    inputs = jax.ShapeDtypeStruct((2, *input_shape), next(iter(dtypes), default_float()))
    try:
        logits = jax.eval_shape(network, params, inputs)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"The network does not run on examples of shape {input_shape}: {error} If it wants flat inputs or channels "
            "first, say so: `nestax.networks.FromEquinox(make, prepare=jnp.ravel)`."
        ) from error
    if getattr(logits, "shape", None) != (2, num_classes):
        raise ValueError(
            f"The network must return one logit for each of {num_classes} classes, got {logits} for 2 examples."
        )
