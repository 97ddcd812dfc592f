"""Parts of a recipe that are done stay done: results kept in files, each with the protocol that it belongs to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._storage import read_json, write_json


def cached(path: Path, protocol: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in `path` if it was computed under `protocol` (JSON values), else that of `compute`, kept there."""
    if path.exists():
        stored = read_json(path)
        if stored["protocol"] == protocol:
            return stored["result"]
    result = compute()
    write_json(path, {"protocol": protocol, "result": result})
    return result
