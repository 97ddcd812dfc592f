"""Learned optimizers on disk."""

from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._storage import CheckpointError, load_tree, read_header, save_tree
from .._tree import common_dtype
from ._base import AbstractLearnedOptimizer
from ._l2o_dm import L2ODM
from ._rnnprop import RNNprop
from ._twin import TwinLSTM
from ._twin_krylov import TwinKrylov

_CLASSES = {cls.__name__: cls for cls in (L2ODM, RNNprop, TwinLSTM, TwinKrylov)}
_KIND = "learned optimizer"


def save(path: str | PathLike[str], optimizer: AbstractLearnedOptimizer) -> None:
    """Saves a learned optimizer as safetensors: meta-parameters under plain names, all else in the JSON header.

    The header holds the class, its configuration and the nestax version. The file is written to a temporary name and
    renamed, so that an interruption or a full disk (`OSError`) leaves an earlier file intact.
    """
    weights = eqx.filter(optimizer, optimizer.meta_parameters())
    dtype = common_dtype(weights)
    header = {"kind": _KIND, "class": type(optimizer).__name__, "config": optimizer.config(), "dtype": dtype.name}
    save_tree(Path(path), weights, header)


def load(path: str | PathLike[str]) -> AbstractLearnedOptimizer:
    """Loads what `save` saved.

    **Raises** `CheckpointError` (a `ValueError`), naming file and field, for a missing, damaged, truncated or foreign
    file.

    **Example**

    ```python
    >>> import jax, tempfile, nestax as nx
    >>> optimizer = nx.learned.RNNprop(key=jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nx.learned.save(f"{folder}/rnnprop.safetensors", optimizer)
    ...     loaded = nx.learned.load(f"{folder}/rnnprop.safetensors")

    ```
    """
    path = Path(path)
    header = read_header(path)
    if header.get("kind") != _KIND:
        raise CheckpointError(f"{path}: field 'kind' is {header.get('kind')!r}, expected {_KIND!r}.")
    if header.get("class") not in _CLASSES:
        raise CheckpointError(
            f"{path}: field 'class' is {header.get('class')!r}, but this version of nestax knows {sorted(_CLASSES)}."
        )
    try:
        config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header["config"].items()}
        optimizer = _CLASSES[header["class"]](**config, key=jax.random.key(0))
        dtype = jnp.dtype(header["dtype"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: field 'config' does not describe a {header['class']} ({error}).") from None
    like, rest = eqx.partition(optimizer, optimizer.meta_parameters())
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), like)
    return eqx.combine(load_tree(path, like), rest)
