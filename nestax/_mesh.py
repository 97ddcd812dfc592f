"""Devices as an argument: a batch, always a leading axis, is cut into equal parts, one per device.

The only place that knows of devices. What is computed on a part is the program of one device, by `jax.shard_map`, so
that nothing is gathered but what is asked for.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ._checks import count, describe

AXIS = "batch"
"""The name of the only axis of a resolved mesh."""

EACH, SAME = PartitionSpec(AXIS), PartitionSpec()
"""How arrays lie: cut along the leading axis, or a copy on every device."""

Devices = Mesh | int | None
"""The argument `mesh`: which devices share a batch. `None`: all of this process, where they divide it, else one. A
number: so many of them. A `jax.sharding.Mesh`: all of its devices, whatever its axes, also those of other processes."""


def resolve(mesh: Devices, num: int) -> Mesh | None:
    """The devices for a batch of `num`, along one axis; `None` is the one that JAX takes by default.

    **Raises** `ValueError` for more devices than there are.
    """
    local, chosen = jax.local_devices(), jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if mesh is None:
        devices = local if num % len(local) == 0 and chosen is None else local[:1]
    elif isinstance(mesh, Mesh):
        devices = list(mesh.devices.flat)
    else:
        wanted = count(mesh, "mesh")
        if wanted > len(local):
            raise ValueError(
                f"`mesh` asks for {wanted} devices, but this process has {len(local)}. Take fewer, or for those of "
                "other processes too `jax.make_mesh((jax.device_count(),), ('batch',))`."
            )
        devices = local[:wanted]
    if devices == local[:1] and (chosen is None or not isinstance(mesh, Mesh)):
        return None
    return Mesh(np.asarray(devices), (AXIS,))


def num_devices(mesh: Mesh | None) -> int:
    """How many devices share a batch."""
    return 1 if mesh is None else mesh.size


def is_shared(mesh: Mesh | None) -> bool:
    """Whether the devices belong to several processes."""
    return mesh is not None and len({device.process_index for device in mesh.devices.flat}) > 1


def check_divides(mesh: Mesh | None, num: int, name: str) -> None:
    """Raises `ValueError` unless the devices divide a batch of `num`."""
    devices = num_devices(mesh)
    if num % devices:
        near = sorted({max(num // devices, 1) * devices, -(-num // devices) * devices})
        raise ValueError(
            f"`mesh` has {devices} devices, which do not divide `{name}`, {num}: every device gets equally many. Take "
            f"`{name}={' or '.join(map(str, near))}`, or a number of devices that divides {num}."
        )


def replicate(mesh: Mesh | None, tree: PyTree) -> Any:
    """The arrays of a pytree with a copy on every device; the same object on one."""
    return tree if mesh is None else _placed(mesh, SAME, tree)


def shard(mesh: Mesh | None, tree: PyTree) -> Any:
    """The arrays of a pytree cut along the leading axis, which the devices divide."""
    return tree if mesh is None else _placed(mesh, EACH, tree)


def _placed(mesh: Mesh, spec: PartitionSpec, tree: PyTree) -> PyTree:
    sharding = NamedSharding(mesh, spec)

    def leaf(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return jax.lax.with_sharding_constraint(x, sharding)
        if not eqx.is_array(x) or x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        if not is_shared(mesh):
            return jax.device_put(x, sharding)
        if not x.is_fully_addressable:
            return _moved(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = leaf(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        host = np.asarray(x)  # every process has all of it, and places its own part
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(leaf, tree)


def fetch(tree: PyTree) -> Any:
    """The arrays of a pytree, but PRNG keys, on the host, as NumPy arrays, whole in every process."""

    def leaf(x: Any) -> Any:
        if not isinstance(x, jax.Array) or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        if not x.is_fully_addressable and not x.is_fully_replicated:
            sharding: Any = x.sharding
            x = _moved(x, NamedSharding(sharding.mesh, SAME))
        return np.asarray(x)

    return jax.tree.map(leaf, tree)


def _moved(x: Array, sharding: NamedSharding) -> Array:
    return jax.jit(_itself, out_shardings=sharding)(x)


def _itself(x: Array) -> Array:
    return x


def shard_examples(mesh: Devices, tree: PyTree, axis: int, like: PyTree) -> tuple[PyTree, Any]:
    """The arrays of samples cut along their axis of examples, and `like` with a copy on every device.

    Nothing is done by default where there is no such axis, or the devices do not divide it.

    **Raises** `ValueError` for devices that were asked for and do not divide the examples, or have nothing to divide.
    """
    arrays = [x for x in jax.tree.leaves(tree) if eqx.is_array(x)]
    keys = any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in arrays)
    sizes = {x.shape[axis] if x.ndim > axis else None for x in arrays}
    num = None if keys or len(sizes) != 1 else sizes.pop()
    resolved = resolve(mesh, 1 if num is None else num)
    if resolved is None or any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((tree, like))):
        return tree, like
    if num is None:
        raise ValueError(
            "`mesh` shares the examples of a batch, but the sample has no axis of examples that all of its arrays "
            "have: a problem that draws its batches from a key draws them on every device. Pass the batch itself."
        )
    check_divides(resolved, num, "examples")
    return _placed(resolved, PartitionSpec(*(None,) * axis, AXIS), tree), replicate(resolved, like)


def on_devices(mesh: Mesh | None, function: Callable, *batched: PyTree, out: Any = EACH) -> PyTree:
    """`function` of every device's part of `batched`, the leading axis of all their arrays, which the devices divide.

    Traced arrays that it needs besides are the same on every device: bind them, `jax.tree_util.Partial(f, arrays)`.
    `out` says how the results lie, `EACH` or `SAME`, as a prefix of their structure. On one device it is
    `function(*batched)`.
    """
    if mesh is None:
        return function(*batched)
    arrays, static = eqx.partition((function, batched), eqx.is_array)
    rest = []

    def local(bound, batched):
        function, arguments = eqx.combine((bound, batched), static)
        results, others = eqx.partition(function(*arguments), eqx.is_array)
        rest.append(others)
        return results

    results = jax.shard_map(local, mesh=mesh, in_specs=(SAME, EACH), out_specs=out, check_vma=False)(*arrays)
    return eqx.combine(results, rest[0])


def spread_padded(mesh: Mesh | None, function: Callable, *batched: PyTree) -> PyTree:
    """As `on_devices`, for a batch of any length: the last entry is repeated, and what comes of it is dropped."""
    if mesh is None:
        return function(*batched)
    padded, num = pad(batched, mesh.size)
    results = on_devices(mesh, function, *padded)
    return jax.tree.map(lambda x: x[:num] if eqx.is_array(x) else x, results)


def pad(tree: PyTree, devices: int) -> tuple[PyTree, int]:
    """The arrays of a pytree with the last entry repeated until the devices divide their length, and the length."""
    num = length(tree)
    missing = -num % devices
    if not missing:
        return tree, num
    index = np.minimum(np.arange(num + missing), num - 1)
    return jax.tree.map(lambda x: x[index] if eqx.is_array(x) else x, tree), num


def length(tree: PyTree) -> int:
    """The length of the leading axis of all arrays of a pytree."""
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(tree) if eqx.is_array(x)}
    if len(lengths) != 1 or () in lengths:
        found = sorted(str(x[0]) if x else "none" for x in lengths)
        raise ValueError(f"A batch is one leading axis of equal length on every array, got {', '.join(found)}.")
    return lengths.pop()[0]


def add_up(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """The sum over devices, inside of `on_devices`: one all-reduce per dtype, of all arrays together."""
    if mesh is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    dtypes = dict.fromkeys(x.dtype for x in leaves)
    parts: list[Any] = [None] * len(leaves)
    for dtype in dtypes:
        places = [i for i, x in enumerate(leaves) if x.dtype == dtype]
        flat = jax.lax.psum(jnp.concatenate([leaves[i].ravel() for i in places]), AXIS)
        ends = np.cumsum([leaves[i].size for i in places])[:-1]
        for i, part in zip(places, jnp.split(flat, ends)):
            parts[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, parts)


def whole(mesh: Mesh | None, x: Array) -> Array:
    """All parts of an array, inside of `on_devices`."""
    return x if mesh is None else jax.lax.all_gather(x, AXIS, tiled=True)


def own(mesh: Mesh | None, x: Array) -> Array:
    """This device's part of an array that is whole on every device, inside of `on_devices`."""
    if mesh is None:
        return x
    size = x.shape[0] // mesh.size
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * size, size)


def lay_like(x: Array, like: Array) -> Array:
    """`x`, whose last axes are those of `like`, sharded along them as `like` is. Inside of `jit`."""
    sharding = jax.typeof(like).sharding
    if sharding.mesh.empty or x.shape[x.ndim - like.ndim :] != like.shape:
        return x
    if any(kind == AxisType.Explicit for kind in sharding.mesh.axis_types):
        spec = PartitionSpec(*(None,) * (x.ndim - like.ndim), *sharding.spec)
        x, _ = jax.lax.optimization_barrier((x, like))  # `jit` learns the devices from arrays that are used
        return jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))
    return shard_alike(jnp.broadcast_to(like, x.shape).astype(x.dtype), x)[1]


def spread(function: Callable[..., Any], *batched: Any, mesh: Devices = None) -> PyTree:
    """`jax.vmap` of a function over the leading axis of its arguments, spread over devices, compiled.

    For everything that is many of one: exponents from many starts, runs of a sweep, cells of a recipe. Nothing passes
    between the devices.

    **Arguments:**

    - `function`: what to compute of one entry of the batch. Pass one that has a name: another lambda each time
      compiles anew each time. Arrays that it closes over are copied to every device.
    - `batched`: its arguments, with a leading axis of equal length on all arrays. Where the devices do not divide the
      length, the last entry is computed again to fill up, and dropped.
    - `mesh`: a number of devices, or a `jax.sharding.Mesh`, all of whose devices take part. Default `None`: all devices
      of this process where they divide the length, else one.

    **Returns** the results, stacked.

    **Raises** `ValueError` for arrays without a common leading axis, and for more devices than there are.

    **Example:** the largest exponent from many starts

    ```python
    >>> import jax, nestax as nx
    >>> game = nx.problems.mixed_dilemma()
    >>> def exponent(players):
    ...     return nx.dynamics.lyapunov_exponents(game, nx.optimizers.sgd(0.1), players, num_steps=5).exponents[0]
    >>> starts = jax.vmap(game.init)(jax.random.split(jax.random.key(0), 16))
    >>> nx.spread(exponent, starts).shape
    (16,)

    ```
    """
    if not callable(function):
        raise ValueError(f"`function` must be a function of one entry of the batch, got {describe(function)}.")
    batch = length(batched)
    resolved = resolve(mesh, batch)
    return _spread(function, replicate(resolved, batched), resolved)


@eqx.filter_jit
def _spread(function, batched, mesh):
    return spread_padded(mesh, jax.tree_util.Partial(_vmapped, function), *batched)


def _vmapped(function, *batched):
    return eqx.filter_vmap(function)(*batched)
