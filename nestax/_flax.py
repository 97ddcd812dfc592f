"""Lets `flax.serialization` save states that are modules, without importing Flax."""

import sys
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

_registered: set[type] = set()


def register_with_flax(state: PyTree) -> None:
    """Teaches `flax.serialization`, if it is loaded, the modules in `state`: they become dictionaries of their leaves.

    Flax knows tuples, dictionaries, and classes that are entered by name. What somebody else has entered stays.
    """
    serialization = sys.modules.get("flax.serialization")
    if serialization is None:
        return
    modules = {type(node) for node in jax.tree.leaves(state, is_leaf=_is_module) if _is_module(node)}
    for cls in modules - _registered:
        _registered.add(cls)
        try:
            serialization.register_serialization_state(cls, _to_dictionary, _from_dictionary)
        except ValueError:  # entered already
            continue


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)


def _to_dictionary(module: eqx.Module) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(module)}


def _from_dictionary(module: eqx.Module, saved: dict[str, Any]) -> eqx.Module:
    names = list(_to_dictionary(module))
    if set(names) != set(saved):
        raise ValueError(
            f"The saved state is not that of a `{type(module).__name__}` on these parameters: got {sorted(saved)}, "
            f"expected {sorted(names)}."
        )
    return jax.tree.unflatten(jax.tree.structure(module), [saved[name] for name in names])
