"""A long run as a folder that survives being killed."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._storage import CheckpointError, load_tree, read_header, read_json, save_tree, write_atomically, write_json
from ._version import __version__


class RunFolder:
    """`config.json`, `metrics.jsonl`, `checkpoint.safetensors` and its readable copy `checkpoint.json`.

    The checkpoint is one file, which holds the arrays and, in its header, the counters: it is replaced in one rename,
    so a run killed at any instant finds either the old one or the new one.

    **Arguments:**

    - `path`: the folder.
    - `kind`: what the header of its checkpoint says it is.
    - `counters`: names of the counters; the first one counts records, and every record holds its index under that name.
    """

    def __init__(self, path: Path, kind: str, counters: Sequence[str]):
        self.path = path
        self.kind = kind
        self.names = tuple(counters)
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.counters = path / "checkpoint.json"

    def start(self, config: dict[str, Any], resume: bool) -> bool:
        """Prepares the folder; returns whether there is a checkpoint to go on from."""
        config = json.loads(json.dumps({**config, "version": __version__}))
        if not self.checkpoint.exists():
            if self.config.exists() and not resume:
                raise ValueError(
                    f"{self.path} already holds a run. Pass `resume=True` to go on with it, or another folder."
                )
            write_json(self.config, config)
            write_atomically(self.metrics, b"")
            return False
        if not resume:
            raise ValueError(
                f"{self.path} already holds a run. Pass `resume=True` to go on with it, or another folder."
            )
        stored = read_json(self.config)
        for field in sorted((set(stored) | set(config)) - {"version"}):
            if stored.get(field) != config.get(field):
                raise CheckpointError(
                    f"{self.config}: field '{field}' is {stored.get(field)!r}, but this run has {config.get(field)!r}. "
                    "Resume with the same settings, or start in another folder."
                )
        return True

    def save(self, tree: PyTree, counters: dict[str, Any]) -> None:
        header = {"kind": self.kind, **counters}
        save_tree(self.checkpoint, tree, header)
        write_json(self.counters, {**header, "version": __version__})

    def load(self, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The checkpoint's arrays and counters. Records after the checkpoint are dropped: they come again."""
        header = read_header(self.checkpoint)
        if header.get("kind") != self.kind:
            raise CheckpointError(f"{self.checkpoint}: field 'kind' is {header.get('kind')!r}, expected {self.kind!r}.")
        if self.counters.exists():
            read_json(self.counters)
        for field in self.names:
            if field not in header:
                raise CheckpointError(f"{self.checkpoint}: field '{field}' is missing from the header.")
        tree = load_tree(self.checkpoint, like)
        index = self.names[0]
        lines = [x for x in self.read_metrics() if x[index] < header[index]]
        write_atomically(self.metrics, "".join(json.dumps(x) + "\n" for x in lines).encode())
        return tree, header

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete records; a last line that a kill cut short is ignored."""
        records = []
        for number, line in enumerate(self.metrics.read_text().splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break
            try:
                records.append(json.loads(line))
            except ValueError:
                raise CheckpointError(f"{self.metrics}: line {number} is damaged, it is not valid JSON.") from None
        return records

    def record(self, record: dict[str, Any]) -> None:
        with open(self.metrics, "a") as file:
            file.write(json.dumps(record) + "\n")


def describe(module: eqx.Module) -> dict[str, Any]:
    """A module as JSON values, for `config.json`: its class and its fields."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}
    return {"class": type(module).__name__} | {k: _json_value(v) for k, v in fields.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, eqx.Module):
        return describe(value)
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if eqx.is_array(value):
        return np.asarray(value).tolist()
    if isinstance(value, dict):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # A function goes by its name: two transformations that were built elsewhere cannot be told apart.
    return getattr(value, "__qualname__", type(value).__name__)
