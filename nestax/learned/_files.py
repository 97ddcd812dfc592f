"""Learned optimizers on disk."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._storage import CheckpointError, StoredTree, reading, save_tree
from .._tree import common_dtype
from ._base import AbstractLearnedOptimizer
from ._hierarchical import AttendedHierarchicalRNN, HierarchicalRNN
from ._l2o_dm import L2ODM
from ._mixed_momentum import MixedMomentum
from ._rnnprop import RNNprop
from ._twin import TwinLSTM
from ._twin_krylov import TwinKrylov

_CLASSES: dict[str, type[AbstractLearnedOptimizer]] = {
    c.__name__: c
    for c in (L2ODM, RNNprop, MixedMomentum, HierarchicalRNN, AttendedHierarchicalRNN, TwinLSTM, TwinKrylov)
}
_KIND = "learned optimizer"


def save(path: str | PathLike[str], optimizer: AbstractLearnedOptimizer) -> None:
    """Saves a learned optimizer as safetensors: meta-parameters under plain names, all else in the JSON header.

    The header holds the class, its configuration, the nestax version, and a SHA-256 of it all. The file is written to a
    temporary name and renamed, so that an interruption or a full disk (`OSError`) leaves an earlier file intact.
    """
    weights = eqx.filter(optimizer, optimizer.meta_parameters())
    dtype = common_dtype(weights)
    header = {"kind": _KIND, "class": type(optimizer).__name__, "config": optimizer.config(), "dtype": dtype.name}
    save_tree(Path(path), weights, header)


def load(path: str | PathLike[str], classes: Sequence[type[AbstractLearnedOptimizer]] = ()) -> AbstractLearnedOptimizer:
    """Loads what `save` saved.

    **Arguments:** `path`: the file. `classes`: classes of your own, of which the file may hold one. An object of such a
    class is made by its constructor, with the keyword arguments that its `config` returned, and `key`.

    **Raises** `CheckpointError` (a `ValueError`), naming file and field, for a missing, damaged, truncated or foreign
    file, or one of a class that was not given. Warns of an old file, which has no checksum.

    **Example**

    ```python
    >>> import jax, tempfile, nestax as nx
    >>> optimizer = nx.learned.RNNprop(key=jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nx.learned.save(f"{folder}/rnnprop.safetensors", optimizer)
    ...     loaded = nx.learned.load(f"{folder}/rnnprop.safetensors")

    ```
    """
    known: dict[str, Any] = _CLASSES | {cls.__name__: cls for cls in classes}
    with reading(path):
        path = Path(path)
        stored = StoredTree(path)
        header = stored.header
        if header.get("kind") != _KIND:
            raise CheckpointError(f"{path}: field 'kind' is {header.get('kind')!r}, expected {_KIND!r}.")
        name = header.get("class")
        if not isinstance(name, str) or name not in known:
            raise CheckpointError(
                f"{path}: field 'class' is {name!r}, but known are {', '.join(sorted(known))}. A class of your own is "
                f"passed as `load(path, classes=[{name}])`."
            )
    with reading(path, f"field 'config' does not describe a {name}"):
        config = _arguments(header["config"])
        dtype = jnp.dtype(header["dtype"])
        make = known[name]
        # Shapes first: a configuration that asks for far more memory than the file holds must not be built.
        like = eqx.filter_eval_shape(lambda: _weights(make(**config, key=jax.random.key(0))))
        stored.check(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), like))
        optimizer = make(**config, key=jax.random.key(0))
        if not _same(optimizer.config(), header["config"]):
            raise ValueError(f"its configuration comes back as {optimizer.config()}")
        like, rest = eqx.partition(optimizer, optimizer.meta_parameters())
        return eqx.combine(stored.restore(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), like)), rest)


def _weights(optimizer: AbstractLearnedOptimizer) -> Any:
    return eqx.filter(optimizer, optimizer.meta_parameters())


def _same(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same, but for numbers that were rounded to another precision."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, int | float) or not isinstance(b, int | float):
        return type(a) is type(b) and a == b
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-30)


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments from JSON: lists are tuples there, and no number is infinite."""
    for name, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"'{name}' is {value}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
