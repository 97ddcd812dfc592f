"""The session of every long run: folder, checkpoints, log, resumption, progress, callbacks, report, processes."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from jaxtyping import PyTree

from . import loggers
from ._fingerprint import describe, fingerprint
from ._folder import RunFolder, Stages, locked
from ._mesh import replicate
from ._processes import Processes
from ._progress import progress_bar
from ._report import Chart, write_report

_COUNTERS = ("best_record", "best_score")


class Outcome(NamedTuple):
    """What one record's work led to.

    - `state`: what the next record starts from; its arrays go into checkpoints.
    - `record`: JSON values for the log; `None` where a failure leaves nothing worth recording.
    - `score`: by which the best is kept, the lowest; `None` where there is none, or it is not finite.
    - `candidate`: what is kept if this is the best so far.
    - `failure`: why the run cannot go on; empty if it can.
    - `rescored`: the best so far was scored anew before this record: `baseline` takes the place of its score.
    """

    state: PyTree
    record: dict[str, Any] | None
    score: float | None = None
    candidate: PyTree = None
    failure: str = ""
    rescored: bool = False
    baseline: float | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments that every long run takes, and on which its result does not depend.

    - `run`: the folder; `None` keeps nothing. `resume`: go on with what it holds.
    - `checkpoint_seconds`: at most so long between checkpoints.
    - `config`: JSON values to store; the same ones on resumption.
    - `labels`: for arguments without a fingerprint, texts that stand for them.
    - `callback`: see `nestax.loggers`. `progress`: show a bar.
    """

    run: str | PathLike[str] | None
    resume: bool
    checkpoint_seconds: float
    config: Mapping[str, Any] | None
    labels: Mapping[str, str] | None
    callback: loggers.Callback | None
    progress: bool

    def __post_init__(self):
        loggers.check(self.callback)
        if self.resume and self.run is None:
            raise ValueError("`resume=True` goes on with the run in a folder: name it, `run=...`.")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"`checkpoint_seconds` must not be negative, got {self.checkpoint_seconds}.")
        for name in ("config", "labels"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise ValueError(f"`{name}` must be a dictionary, got {value!r}.")


class _Progress(NamedTuple):
    """What a checkpoint is made of. One object, so that an interruption finds all of it, or all of the one before."""

    state: PyTree
    best: PyTree
    num_records: int
    counters: dict[str, Any]
    log: str


class Session:
    """A long run, from its first or its resumed record to its end; to be used in a `with` statement.

    The run is a sequence of records. Everything random in record `n` follows from the run's key and `n`, so that a
    resumed run ends with the same bits as one that was never interrupted.

    **Arguments:**

    - `kind`: of run, such as `"meta-training"`; for files and the progress bar.
    - `index`: under which name a record holds its number.
    - `stages`: records as `(length, number)`. A run whose stages are the first ones of the new ones is the same run.
    - `arguments`: all that determines the result but `stages`, by the name of the argument.
    - `state`, `best`: at the start. Resumption needs their structure, too.
    - `options`: see there.
    - `mesh`: on which devices the state lies. Where these belong to several processes, all of them make the run
      together, after they have agreed on all of the above; the first one reads, writes, shows and calls back.
    """

    def __init__(
        self,
        kind: str,
        *,
        index: str,
        stages: Stages,
        arguments: Mapping[str, Any],
        state: PyTree,
        best: PyTree,
        options: Options,
        mesh: Mesh | None = None,
    ):
        self.kind = kind
        self.stages = stages
        self.arguments = arguments
        self.options = options
        self.history: list[dict[str, Any]] = []
        self.failure = ""
        self.state = state
        self.mesh = mesh
        self.processes = Processes(mesh)
        self._index = index
        self._at = _Progress(state, best, 0, dict.fromkeys(_COUNTERS), "")
        self._saved = -1, 0.0
        self._folder: RunFolder | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Session":
        with self.processes.watching():
            self._begin()
        return self

    def _begin(self) -> None:
        run = self.options.run
        config = self._config() if run is not None or self.processes.is_shared else {}
        if self.processes.is_shared:
            where = None if run is None else str(Path(run).absolute())
            asked = {"kind": self.kind, "run": where, "resume": self.options.resume, "stages": self.stages}
            texts = {**asked, **config["fingerprints"], "config": config["config"]}
            self.processes.agree({name: str(value) for name, value in texts.items()})
        if run is not None:
            with self._open:
                found = self.processes.first(lambda: self._attach(Path(run), config))
                self._open = self._open.pop_all()
            if self.processes.is_shared and found:
                self._adopt(found)
            self.state = self._at.state

    def _config(self) -> dict[str, Any]:
        """What the run is, for its folder, and for the other processes."""
        labels = self.options.labels or {}
        unknown = sorted(set(labels) - set(self.arguments))
        if unknown:
            known = ", ".join(self.arguments)
            raise ValueError(f"`labels` stand for arguments, but there is none named '{unknown[0]}'. Known: {known}.")
        prints = {k: f"label {labels[k]}" if k in labels else fingerprint(v, k) for k, v in self.arguments.items()}
        return {
            "arguments": {k: describe(v) for k, v in self.arguments.items()},
            "fingerprints": prints,
            "config": dict(self.options.config or {}),
        }

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def _attach(self, path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
        """Takes the folder, and the checkpoint in it, if there is one. **Returns** what other processes need of it."""
        path.mkdir(parents=True, exist_ok=True)
        self._open.enter_context(locked(path))
        self._folder = folder = RunFolder(path, self.kind, self._index)
        if not folder.open(config, self.stages, self.options.resume):
            self._at = self._at._replace(log=folder.log_digest())
            self._save()
            return None
        (state, best), header, self.history = folder.load((self.state, self._at.best), _COUNTERS)
        counters = {name: header[name] for name in _COUNTERS}
        self._at = _Progress(state, best, header["records"], counters, header["log"])
        self._saved = self._at.num_records, time.monotonic()
        return {"records": header["records"], "counters": counters, "history": self.history}

    def _adopt(self, found: dict[str, Any]) -> None:
        """Takes over the checkpoint that the first process has read."""
        state, best = replicate(self.mesh, self.processes.same((self._at.state, self._at.best)))
        self._at = _Progress(state, best, found["records"], found["counters"], self._at.log)
        self.history = found["history"]

    @property
    def best(self) -> PyTree:
        """What was kept at the best record."""
        return self._at.best

    @property
    def best_record(self) -> int | None:
        """The number of the best record; `None` before the first one with a score."""
        return self._at.counters["best_record"]

    @property
    def num_records(self) -> int:
        """How many records the run has made."""
        return self._at.num_records

    @property
    def is_complete(self) -> bool:
        """Whether all records of all stages were made."""
        return self.num_records == sum(number for _, number in self.stages)

    def length(self, record: int) -> int:
        """The length of a record, from its stage."""
        for length, number in self.stages:
            if record < number:
                return length
            record -= number
        raise IndexError(record)

    def stage(self, record: int) -> int:
        """The number of the stage that a record belongs to, from 1."""
        ends = 0
        for i, (_, number) in enumerate(self.stages, 1):
            ends += number
            if record < ends:
                return i
        raise IndexError(record)

    def drive(
        self,
        advance: Callable[[PyTree, int], Outcome],
        note: Callable[[dict[str, Any]], str],
        finished: Callable[[], bool] = lambda: False,
    ) -> None:
        """Makes records until the run is complete, fails, `finished()`, or a callback ends it.

        Ctrl-C, and every other exception, leaves a checkpoint of the last complete record.
        """
        total = sum(length * number for length, number in self.stages)
        done = sum(self.length(i) for i in range(self.num_records))
        try:
            show = self.options.progress and self.processes.is_first
            with self.processes.watching(), progress_bar(total, self.kind, show) as report:
                while not (self.is_complete or finished()):
                    index = self.num_records
                    outcome = advance(self._at.state, index)
                    if outcome.record is not None:
                        self._count(outcome, outcome.record)
                        done += self.length(index)
                        report(done, lambda: note(self.history[-1]))
                        if self._call_back():
                            break
                    self.state, self.failure = outcome.state, outcome.failure
                    if self.failure:
                        break
        finally:
            self._save()

    def _call_back(self) -> bool:
        """Whether a callback ends the run."""
        if self.options.callback is None:
            return False
        return self.processes.decide(
            bool(self.processes.is_first and loggers.call(self.options.callback, self.history[-1]))
        )

    def _count(self, outcome: Outcome, record: dict[str, Any]) -> None:
        at, counters, best, log = self._at, self._at.counters, self._at.best, self._at.log
        if outcome.rescored:
            counters = {**counters, "best_score": outcome.baseline}
        if outcome.score is not None and (counters["best_score"] is None or outcome.score < counters["best_score"]):
            counters = {"best_record": at.num_records, "best_score": outcome.score}
            best = outcome.candidate
        if self._folder is not None:  # first the log, then the count: a checkpoint never counts what was not logged
            self._folder.record(record)
            log = self._folder.log_digest()
        self.history.append(record)
        self._at = _Progress(outcome.state, best, at.num_records + 1, counters, log)
        self.state = outcome.state
        if time.monotonic() - self._saved[1] >= self.options.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        if self._folder is not None and self._saved[0] != self._at.num_records:
            at = self._at
            self._folder.save((at.state, at.best), at.num_records, at.counters, at.log)
            self._saved = at.num_records, time.monotonic()

    @property
    def folder(self) -> Path | None:
        """Where further files of the run belong; `None` for a process that writes none."""
        return None if self._folder is None else self._folder.path

    def report(self, chart: Chart, lines: list[str]) -> None:
        """Writes a picture and a page into the folder, if there is one."""
        if self.folder is not None:
            settings = {k: describe(v) for k, v in self.arguments.items()} | {"stages": self.stages}
            write_report(self.folder, self.kind, settings, chart, self.history, lines)


def number(value: Any) -> float | None:
    """A number for JSON, which has neither NaN nor infinity: these are `None`."""
    value = float(value)
    return value if math.isfinite(value) else None
