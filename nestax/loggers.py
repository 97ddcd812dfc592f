"""Loggers: what a `callback` of `solve`, `meta.train` or `hyper.tune` may be, besides a function of your own.

A callback is called with every record, a dictionary of JSON values, after it was made. A true value that it returns
ends the run, which can be resumed.
"""

import atexit
import copy
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ._public import check_arguments as _check_arguments
from ._storage import append_line

Record = Mapping[str, Any]
Callback = Callable[[Record], Any] | Sequence[Callable[[Record], Any]]

_STEPS = ("step", "epoch", "record")  # under which name a record says when it was made


def call(callback: Callback | None, record: Record) -> bool:
    """Hands `record` to one callback or several, each of which sees it; returns whether one of them asks for an end."""
    if callback is None:
        return False
    each = callback if isinstance(callback, Sequence) else (callback,)
    answers = [bool(one(copy.copy(record))) for one in each]  # all of them, even after one that asks for an end
    return any(answers)


def check(callback: Any) -> None:
    """**Raises** `ValueError` for what is neither a callable, nor a sequence of callables, nor `None`."""
    for one in callback if isinstance(callback, Sequence) else (callback,):
        if not (one is None and one is callback) and not callable(one):
            raise ValueError(
                "`callback` must be a function of a record (a dictionary), such as `nx.loggers.TensorBoard(folder)`, "
                f"or a list of them, got {one!r}."
            )


class JSONLines:
    """Appends every record to a file as one line of JSON.

    A run with a folder writes such a file by itself, `metrics.jsonl`.

    **Arguments:** `path`: the file; what it already holds stays. A resumed run repeats what came after its checkpoint.

    **Example**

    ```python
    >>> import json, tempfile, nestax as nx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = nx.loggers.JSONLines(f"{folder}/log.jsonl")
    ...     _ = log({"step": 0, "loss": 1.5})
    ...     text = open(f"{folder}/log.jsonl").read()
    >>> json.loads(text)
    {'step': 0, 'loss': 1.5}

    ```
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)

    def __call__(self, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self.path, json.dumps(dict(record)))


class TensorBoard:
    """Writes the numbers of every record for TensorBoard, by the package `tensorboardX`.

    Values that are no numbers, or not finite, are left out. When a run is resumed, what an interrupted run had logged
    after the checkpoint is replaced.

    **Arguments:**

    - `folder`: where the event files go; `tensorboard --logdir FOLDER` shows them.
    - `prefix`: put before the names, as in `training/loss`. Default `""`.

    **Raises** `ImportError` where `tensorboardX` is missing; `pip install 'nestax[tensorboard]'` installs it.
    """

    def __init__(self, folder: str | PathLike[str], prefix: str = ""):
        try:
            import tensorboardX
        except ImportError:
            raise ImportError(
                "`TensorBoard` needs the package tensorboardX: run `pip install 'nestax[tensorboard]'`."
            ) from None
        self.folder = str(folder)
        self.prefix = prefix
        self._make = tensorboardX.SummaryWriter
        self._writer: Any = None

    def __call__(self, record: Record) -> None:
        step = next((record[name] for name in _STEPS if name in record), None)
        if self._writer is None:
            suffix = f".{secrets.token_hex(4)}"  # two writers of one second must not share a file
            self._writer = self._make(self.folder, purge_step=step, filename_suffix=suffix, flush_secs=1)
            atexit.register(self.close)
        for name, value in record.items():
            if isinstance(value, int | float) and name not in _STEPS and math.isfinite(value):
                self._writer.add_scalar(self.prefix + name, value, step)

    def close(self) -> None:
        """Writes what is still under way. By itself that happens within about a second, and when the process ends."""
        if self._writer is not None:
            self._writer.close()
            atexit.unregister(self.close)
            self._writer = None


_check_arguments(globals())
