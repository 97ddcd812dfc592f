"""Arrays on disk: safetensors with a JSON header and a checksum, written to a temporary name and renamed. No pickle."""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import stat
import struct
import warnings
from collections.abc import Iterator, Mapping
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
_FORMAT = 2  # has a checksum: without this number, damage to the word "sha256" would look like an old file
_MAX_HEADER = 100_000_000
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    jax.errors.JAXTypeError,
    safetensors.SafetensorError,
    struct.error,
)


class CheckpointError(ValueError):
    """A file is damaged, truncated, or not what was asked for. The message names the file and the field."""


@contextlib.contextmanager
def reading(path: Any, what: str = "damaged, truncated, or not a file of nestax") -> Iterator[None]:
    """Turns every failure of what is inside into a `CheckpointError` that names the file: `path` is `what`."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file does not exist.") from None
    except _FAILURES as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: {what} ({lines[0]}).") from None


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets an `OSError` of a write say which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` so that at any instant `path` holds either its old contents or all of the new ones.

    A symbolic link is followed. A new file has the mode that the umask gives, an old one keeps its own. A full disk
    raises `OSError` and leaves the old contents.
    """
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(6)}.tmp"
    try:
        with _naming(path):
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def append_line(path: Path, line: str) -> None:
    """Adds a line to a log. A full disk raises `OSError`, and may leave a part of the line."""
    with _naming(path), open(path, "a") as file:
        file.write(line + "\n")


def flush_to_disk(path: Path) -> None:
    """Returns when what was appended to a log would survive a loss of power."""
    with _naming(path), open(path, "rb+") as file:
        os.fsync(file.fileno())


def sweep_temporaries(folder: Path) -> None:
    """Deletes what killed writers left behind. Only for a folder that nobody else writes to."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


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
    with reading(path, "damaged, it is not valid JSON"):
        value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got a {type(value).__name__}.")
    return value


def name_of(path: Any) -> str:
    """The plain name of a leaf, such as `network.cells.0.weight`, from its key path."""
    return ".".join(str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def save_tree(path: Path, tree: PyTree, header: Mapping[str, Any]) -> None:
    """Saves the arrays of `tree` under plain names (`network.cells.0.weight`), with `header` as JSON metadata.

    PRNG keys are stored as their raw data, and complex numbers as pairs of real ones on a last axis. Leaves that are
    not arrays are not stored: they belong in the header. A SHA-256 of names, shapes, dtypes, header and arrays makes
    sure that a damaged file is not loaded.
    """
    arrays = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array)):
        leaf = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")
        if np.iscomplexobj(leaf):
            leaf = np.stack([leaf.real, leaf.imag], axis=-1)
        arrays[name_of(key_path)] = leaf
    save_arrays(path, arrays, header)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Saves NumPy arrays by name, with `header` as JSON metadata. No complex ones: the format has none."""
    blob = safetensors.numpy.save(dict(arrays))
    size = struct.unpack("<Q", blob[:8])[0]
    table, data = json.loads(blob[8 : 8 + size]), memoryview(blob)[8 + size :]
    header = {**header, "version": __version__, "format": _FORMAT}
    header["sha256"] = _checksum(table, header, data)
    text = json.dumps({"__metadata__": {_HEADER: json.dumps(header)}, **table}).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, b"".join((struct.pack("<Q", len(text)), text, data)))


def _checksum(table: Mapping[str, Any], header: Mapping[str, Any], data: bytes | memoryview) -> str:
    rest = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps([dict(table), rest], sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()


class StoredTree:
    """What `save_tree` wrote: the `header`, and the arrays under their plain names."""

    def __init__(self, path: Path):
        self.path = path
        with reading(path, "not a safetensors file, or a damaged or truncated one"):
            blob = Path(path).read_bytes()
            size = struct.unpack("<Q", blob[:8])[0]
            if size > min(_MAX_HEADER, len(blob)):
                raise ValueError(f"a header of {size} bytes, truncated")
            table = json.loads(blob[8 : 8 + size])
            metadata = table.pop("__metadata__", None) or {}
            arrays = safetensors.numpy.load(blob)
        with reading(path, f"field '__metadata__.{_HEADER}' is damaged"):
            if _HEADER not in metadata:
                raise CheckpointError(
                    f"{path}: field '__metadata__.{_HEADER}' is missing, so nestax did not write this file."
                )
            self.header: dict[str, Any] = dict(json.loads(metadata[_HEADER]).items())
            stored = self.header.pop("sha256", None)
            if stored is None and "format" in self.header:
                raise CheckpointError(f"{path}: damaged, its checksum is missing.")
            if stored is None:
                warnings.warn(
                    f"{path} has no checksum: it is from an old version, and damage would not be noticed. Load it and "
                    "save it again.",
                    stacklevel=3,
                )
            elif stored != _checksum(table, self.header, memoryview(blob)[8 + size :]):
                raise CheckpointError(f"{path}: damaged, its contents do not match their checksum.")
            self.header.pop("format", None)
        self.arrays: dict[str, np.ndarray] = arrays

    def restore(self, like: PyTree) -> PyTree:
        """The arrays in the structure of `like`, whose array leaves may be `ShapeDtypeStruct`s.

        **Raises** `CheckpointError` if any name, shape or dtype is not that of `like`.
        """
        slots, rest = eqx.partition(like, lambda x: eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct))
        leaves, structure = jax.tree_util.tree_flatten_with_path(slots)
        checked = self.check(slots)  # all, before the first is made
        loaded = [_as_leaf(value, leaf) for value, (_, leaf) in zip(checked, leaves)]
        return eqx.combine(jax.tree_util.tree_unflatten(structure, loaded), rest)

    def check(self, like: PyTree) -> list[np.ndarray]:
        """The arrays in the order of the leaves of `like`, arrays or `ShapeDtypeStruct`s; raises as `restore` does."""
        leaves = jax.tree_util.tree_leaves_with_path(like)
        wanted = {name_of(p) for p, _ in leaves}
        for problem, names in (("missing", wanted - set(self.arrays)), ("unexpected", set(self.arrays) - wanted)):
            if names:
                raise CheckpointError(
                    f"{self.path}: field '{min(names)}' is {problem} ({len(names)} {problem} in all)."
                )
        return [self._checked(name_of(p), leaf) for p, leaf in leaves]

    def _checked(self, name: str, like: Any) -> np.ndarray:
        value = self.arrays[name]
        if jnp.issubdtype(like.dtype, jnp.complexfloating) and value.shape[-1:] == (2,):
            value = np.asarray(value[..., 0] + 1j * value[..., 1])
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            like = jax.eval_shape(jax.random.key_data, like)
        if value.shape != like.shape or value.dtype != like.dtype:
            raise CheckpointError(
                f"{self.path}: field '{name}' is {value.dtype}{list(value.shape)}, "
                f"expected {like.dtype}{list(like.shape)}."
            )
        return value


def _as_leaf(value: np.ndarray, like: Any) -> Any:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value))
    return jnp.asarray(value)


def load_tree(path: Path, like: PyTree) -> PyTree:
    """Loads what `save_tree` saved into the structure of `like`; see `StoredTree.restore`."""
    return StoredTree(path).restore(like)
