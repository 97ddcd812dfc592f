"""The folder of a long run: what was asked for, what was measured, and the last checkpoint."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import socket
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from ._storage import (
    CheckpointError,
    StoredTree,
    append_line,
    flush_to_disk,
    read_json,
    reading,
    save_tree,
    sweep_temporaries,
    write_atomically,
    write_json,
)
from ._version import __version__

try:
    import fcntl
except ImportError:  # not a POSIX system: the lock then only says who holds it
    fcntl = None

CONFIG, METRICS, CHECKPOINT, LOCK = "config.json", "metrics.jsonl", "checkpoint.safetensors", ".lock"

Stages = tuple[tuple[int, int], ...]
"""Records of a run as `(length, number)`: so many records of so many steps each, one stage after the other."""


class FolderInUse(ValueError):
    """Another process works in the folder."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a folder to this process. The lock of a process that died is no lock.

    **Raises** `FolderInUse`, a `ValueError` that says which process holds it, and where.
    """
    path = folder / LOCK
    handle = _take_lock(path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        try:
            path.unlink(missing_ok=True)  # before the lock is given up, so that nobody else's file is deleted
        finally:
            os.close(handle)


def _take_lock(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        holder = _holder(handle)
        # This host's kernel knows whether anybody here holds it; of other hosts it may not know.
        free = holder is None or (fcntl is not None and holder.get("host") == socket.gethostname())
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
        if not free:
            os.close(handle)
            holder = holder or {}
            raise FolderInUse(
                f"{path.parent} is in use by process {holder.get('pid', '(unknown)')} on "
                f"{holder.get('host', 'this host')}. Wait for it, stop it, or take another folder. If that process no "
                f"longer lives, delete {path}."
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # the holder has deleted it in the meantime


def _holder(handle: int) -> dict[str, Any] | None:
    """Who wrote the lock; `None` for an empty one, which was just made, or given up by a killed process."""
    try:
        holder = json.loads(os.pread(handle, 1_000, 0))
        return holder if isinstance(holder, dict) else None
    except ValueError:
        return None


class RunFolder:
    """`config.json`, `metrics.jsonl` and `checkpoint.safetensors` of one run. To be used inside `locked`.

    The checkpoint is one file, which holds the arrays and, in its header, how many records they are after: it is
    replaced in one rename, so a run killed at any instant finds either the old one or the new one. A record is in the
    log before a checkpoint counts it; what the log holds beyond the checkpoint comes again, and is dropped.

    **Arguments:**

    - `path`: the folder.
    - `kind`: of run, such as `"meta-training"`.
    - `index`: under which name every record holds its number.
    """

    def __init__(self, path: Path, kind: str, index: str):
        self.path = path
        self.kind = kind
        self.index = index
        self.config = path / CONFIG
        self.metrics = path / METRICS
        self.checkpoint = path / CHECKPOINT
        self._identity = ""
        self._log = hashlib.sha256()  # of the log so far, so that a checkpoint knows the log that it belongs to

    def open(self, config: Mapping[str, Any], stages: Stages, resume: bool) -> bool:
        """Prepares the folder; returns whether there is a checkpoint to go on from.

        `config` holds at least `fingerprints`: of every argument that the result depends on.
        """
        versions = {"nestax": __version__, "jax": jax.__version__, "python": platform.python_version()}
        new = json.loads(json.dumps({"kind": self.kind, **config, "stages": stages, "versions": versions}))
        self._identity = _digest(new["kind"], new["fingerprints"], new["config"])
        if not self.config.exists():
            self._refuse_strangers()
            write_json(self.config, new)
        else:
            if not resume:
                raise ValueError(
                    f"{self.path} already holds a run. Pass `resume=True` to go on with it, or another folder."
                )
            self._compare(read_json(self.config), new)
        sweep_temporaries(self.path)
        if self.checkpoint.exists():
            write_json(self.config, new)  # a longer schedule
            return True
        if self.metrics.exists() and self.metrics.stat().st_size:
            raise CheckpointError(
                f"{self.checkpoint}: the file does not exist, but {self.metrics} holds records, so it was lost. Start "
                "in another folder."
            )
        write_atomically(self.metrics, b"")
        return False

    def _refuse_strangers(self) -> None:
        strangers = sorted(x.name for x in self.path.iterdir() if not x.name.startswith("."))
        if strangers:
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            raise ValueError(
                f"{self.path} holds no run, but other files ({strangers[0]}{more}), which a run could overwrite. Take "
                "a new or an empty folder."
            )

    def _compare(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        with reading(self.config, "does not describe a run of this version of nestax"):
            if old["kind"] != new["kind"]:
                raise CheckpointError(f"{self.config}: field 'kind' is {old['kind']!r}, expected {new['kind']!r}.")
            for name in dict.fromkeys([*new["fingerprints"], *old["fingerprints"]]):
                if old["fingerprints"].get(name) != new["fingerprints"].get(name):
                    raise CheckpointError(self._difference(name, old["arguments"], new["arguments"]))
            for name in dict.fromkeys([*new["config"], *old["config"]]):
                if old["config"].get(name) != new["config"].get(name):
                    raise CheckpointError(self._difference(name, old["config"], new["config"]))
            if not _is_prefix(old["stages"], new["stages"]):
                raise CheckpointError(
                    f"{self.config}: the run has the stages {old['stages']}, of which {new['stages']} are no "
                    "continuation. It goes on with the same schedule, or with a longer one."
                )
            changed = [f"{k} {v}, now {new['versions'].get(k)}" for k, v in old["versions"].items()
                       if v != new["versions"].get(k)]  # fmt: skip
        if changed:
            warnings.warn(
                f"{self.path} was started with {'; '.join(changed)}: it goes on, but not bit for bit as it would have.",
                stacklevel=2,
            )

    def _difference(self, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        a, b = (_short(x.get(name)) for x in (old, new))
        how = f"was {a}, and now is {b}" if a != b else f"is another than it was (both are described as {a})"
        return (
            f"{self.config}: this run cannot go on, since `{name}` {how}. Resume with the same settings, or start in "
            "another folder."
        )

    def record(self, record: Mapping[str, Any]) -> None:
        """Adds a record to the log."""
        line = json.dumps(record)
        append_line(self.metrics, line)
        self._log.update(line.encode() + b"\n")

    def save(self, tree: PyTree, num_records: int, counters: Mapping[str, Any], log: str) -> None:
        """Writes the checkpoint, after the log that it counts: `log` is what `log_digest` was after those records."""
        flush_to_disk(self.metrics)
        header = {"kind": self.kind, "run": self._identity, "records": num_records, "log": log, **counters}
        save_tree(self.checkpoint, tree, header)

    def log_digest(self) -> str:
        """The SHA-256 of the log so far."""
        return self._log.hexdigest()

    def load(self, like: PyTree, counters: tuple[str, ...]) -> tuple[PyTree, dict[str, Any], list[dict[str, Any]]]:
        """The checkpoint's arrays, its header, and the records that it counts. Later ones are dropped from the log."""
        stored = StoredTree(self.checkpoint)
        header = stored.header
        for name, expected in (("kind", self.kind), ("run", self._identity)):
            if header.get(name) != expected:
                raise CheckpointError(
                    f"{self.checkpoint}: field '{name}' is {header.get(name)!r}, expected {expected!r}: the file is "
                    "not of this run."
                )
        for name in ("records", "log", *counters):
            if name not in header:
                raise CheckpointError(f"{self.checkpoint}: field '{name}' is missing from the header.")
        tree = stored.restore(like)
        with reading(self.metrics, "damaged"):
            lines = self.metrics.read_bytes().splitlines(keepends=True)
        kept = lines[: header["records"]]
        history = [self._parse(number, line) for number, line in enumerate(kept)]
        if len(kept) < header["records"]:
            raise CheckpointError(
                f"{self.metrics}: holds {len(kept)} records, but the checkpoint counts {header['records']}."
            )
        self._log = hashlib.sha256(b"".join(kept))
        if self.log_digest() != header["log"]:
            raise CheckpointError(f"{self.metrics}: damaged, it is not the log that the checkpoint belongs to.")
        if len(lines) > len(kept):
            write_atomically(self.metrics, b"".join(kept))
        return tree, header, history

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        with reading(self.metrics, f"line {number + 1} is damaged, it is not a record"):
            record = json.loads(line)
            if not line.endswith(b"\n") or record[self.index] != number:
                raise ValueError(f"expected '{self.index}': {number}")
            return record


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_prefix(old: Any, new: Any) -> bool:
    """Whether the records of `old` are the first ones of `new`, both as stages."""
    rest = [list(stage) for stage in new]
    for length, number in old:
        while number > 0:
            if not rest or rest[0][0] != length:
                return False
            taken = min(number, rest[0][1])
            number -= taken
            rest[0][1] -= taken
            if rest[0][1] == 0:
                rest.pop(0)
    return True


def check_writable(path: Path, name: str) -> None:
    """Makes the folder; **raises** `ValueError` that calls it `name` if that fails, or it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise ValueError(f"`{name}`: cannot write to {path}: {error.strerror}.") from None


def check_new_folder(path: Path, name: str, holds: tuple[str, ...] = ()) -> None:
    """`check_writable`, and **raises** `ValueError` if the folder holds something other than the files `holds`."""
    check_writable(path, name)
    strangers = sorted(x.name for x in path.iterdir() if not x.name.startswith(".") and x.name not in holds)
    if strangers:
        raise ValueError(f"`{name}`: {path} already holds files, such as {strangers[0]}. Take a new or empty folder.")
