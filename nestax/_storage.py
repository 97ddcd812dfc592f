"""Arrays on disk: safetensors with a JSON header, written to a temporary name and renamed. No pickle."""

import contextlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from ._version import __version__

_HEADER = "nestax"


class CheckpointError(ValueError):
    """A file is damaged, truncated, or not what was asked for. The message names the file and the field."""


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` so that at any instant `path` holds either its old contents or all of the new ones.

    A full disk raises `OSError` and leaves the old contents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def save_figure(path: str | os.PathLike[str], figure: Any, dpi: int = 120) -> None:
    """Writes a figure of matplotlib, in the format that the suffix names (default PNG)."""
    path, image = Path(path), io.BytesIO()
    figure.savefig(image, format=path.suffix[1:] or "png", dpi=dpi)
    write_atomically(path, image.getvalue())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes readable JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; `CheckpointError` naming the file where it is missing or is none."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file does not exist.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: damaged, it is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got a {type(value).__name__}.")
    return value


def _name(path: Any) -> str:
    return ".".join(str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def save_tree(path: Path, tree: PyTree, header: Mapping[str, Any]) -> None:
    """Saves the arrays of `tree` under plain names (`network.cells.0.weight`), with `header` as JSON metadata.

    PRNG keys are stored as their raw data, and complex numbers as pairs of real ones on a last axis. Leaves that are
    not arrays are not stored: they belong in the header.
    """
    arrays = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array)):
        leaf = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")
        if np.iscomplexobj(leaf):
            leaf = np.stack([leaf.real, leaf.imag], axis=-1)
        arrays[_name(key_path)] = leaf
    save_arrays(path, arrays, header)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Saves NumPy arrays by name, with `header` as JSON metadata. No complex ones: the format has none."""
    metadata = {_HEADER: json.dumps({**header, "version": __version__})}
    write_atomically(path, safetensors.numpy.save(dict(arrays), metadata=metadata))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Loads what `save_arrays` saved; `CheckpointError` if the file is damaged or truncated."""
    read_header(path)
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}).") from None


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a file that `save_tree` wrote."""
    try:
        with open(path, "rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            if size > 100_000_000:
                raise ValueError(f"header of {size} bytes")
            metadata = json.loads(file.read(size)).get("__metadata__", {})
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file does not exist.") from None
    except (ValueError, struct.error, AttributeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged or truncated one ({error}).") from None
    if _HEADER not in metadata:
        raise CheckpointError(f"{path}: field '__metadata__.{_HEADER}' is missing, so nestax did not write this file.")
    return json.loads(metadata[_HEADER])


def load_tree(path: Path, like: PyTree) -> PyTree:
    """Loads what `save_tree` saved into the structure of `like`, whose array leaves may be `ShapeDtypeStruct`s.

    **Raises** `CheckpointError` if the file is damaged or truncated, or if any name, shape or dtype is not that of
    `like`.
    """
    arrays = load_arrays(path)
    slots, rest = eqx.partition(like, lambda x: eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct))
    leaves, structure = jax.tree_util.tree_flatten_with_path(slots)
    wanted = {_name(p) for p, _ in leaves}
    for problem, names in (("missing", wanted - set(arrays)), ("unexpected", set(arrays) - wanted)):
        if names:
            raise CheckpointError(f"{path}: field '{min(names)}' is {problem} ({len(names)} {problem} in all).")
    loaded = [_restore(path, _name(p), arrays[_name(p)], leaf) for p, leaf in leaves]
    return eqx.combine(jax.tree_util.tree_unflatten(structure, loaded), rest)


def _restore(path: Path, name: str, value: np.ndarray, like: Any) -> Any:
    is_key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    like_raw = jax.eval_shape(jax.random.key_data, like) if is_key else like
    if jnp.issubdtype(like.dtype, jnp.complexfloating) and value.shape[-1:] == (2,):
        value = value[..., 0] + 1j * value[..., 1]
    if value.shape != like_raw.shape or value.dtype != like_raw.dtype:
        raise CheckpointError(
            f"{path}: field '{name}' is {value.dtype}{list(value.shape)}, "
            f"expected {like_raw.dtype}{list(like_raw.shape)}."
        )
    return jax.random.wrap_key_data(jnp.asarray(value)) if is_key else jnp.asarray(value)
