"""The session of long runs, with a run that costs nothing: folders, logs, locks, interruptions, damage."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from nestax import _folder, loggers
from nestax._folder import LOCK
from nestax._report import Chart
from nestax._run import Options, Outcome, Session, number
from nestax._storage import CheckpointError, StoredTree

CHART = Chart("toy.png", {"value": "value"}, "record", "record", "value")


class Toy:
    """A running sum, with randomness by the number of the record."""

    def __init__(self, **changes):
        self.arguments = {"rate": 0.5, "start": jnp.ones(2), **changes}

    def advance(self, state, index):
        noise = jax.random.normal(jax.random.key(index), (2,))
        state = state * self.arguments["rate"] + noise
        value = number(state.sum())
        return Outcome(state, {"record": index, "value": value}, value, state)


def run(folder=None, stages=((1, 6),), resume=False, advance=None, finished=lambda: False, report=False, **options):
    given = {"checkpoint_seconds": 1e9, "config": None, "labels": None, "callback": None, "progress": False}
    toy = Toy(**options.pop("arguments", {}))
    session = Session(
        "toy",
        index="record",
        stages=stages,
        arguments=toy.arguments,
        state=toy.arguments["start"],
        best=toy.arguments["start"],
        options=Options(**{**given, **options}, run=folder, resume=resume),
    )
    with session:
        session.drive(advance or toy.advance, lambda record: f"{record['value']:.3g}", finished)
        if report:
            session.report(CHART, [f"{session.num_records} records"])
    return session


def same(a, b):
    return (
        bool(jnp.array_equal(a.state, b.state))
        and bool(jnp.array_equal(a.best, b.best))
        and (a.history, a.best_record) == (b.history, b.best_record)
    )


def until(last):
    return lambda record: record["record"] == last


def test_the_best_is_kept_and_records_are_history():
    session = run()
    values = [record["value"] for record in session.history]
    assert session.best_record == values.index(min(values))
    assert float(session.best.sum()) == min(values)
    assert session.is_complete


def test_the_folder_holds_the_run(tmp_path):
    session = run(tmp_path / "a" / "run", config={"note": 1}, report=True)
    names = {path.name for path in (tmp_path / "a" / "run").iterdir()}
    assert names == {"config.json", "metrics.jsonl", "checkpoint.safetensors", "report.md", "toy.png"}
    lines = (tmp_path / "a" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == session.history
    config = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert config["arguments"] == {"rate": 0.5, "start": [1.0, 1.0]}
    assert config["config"] == {"note": 1}
    assert "6 records" in (tmp_path / "a" / "run" / "report.md").read_text()


@pytest.mark.parametrize("last", [0, 2, 5])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_stopped_run_goes_on(last, seconds, tmp_path):
    part = run(tmp_path, callback=until(last), checkpoint_seconds=seconds)
    assert part.num_records == last + 1
    assert same(run(tmp_path, resume=True), run())


def test_resume_starts_where_there_is_nothing_and_ends_where_all_is_done(tmp_path):
    whole = run(tmp_path / "new", resume=True)
    assert same(whole, run())
    assert same(run(tmp_path / "new", resume=True), whole)


def test_a_longer_schedule_goes_on(tmp_path):
    run(tmp_path, stages=((1, 2),))
    run(tmp_path, stages=((1, 3),), resume=True)
    run(tmp_path, stages=((1, 4), (2, 1)), resume=True)
    longest = run(tmp_path, stages=((1, 4), (2, 3)), resume=True)
    assert same(longest, run(stages=((1, 7),)))
    assert [longest.length(i) for i in range(7)] == [1, 1, 1, 1, 2, 2, 2]
    assert [longest.stage(i) for i in range(7)] == [1, 1, 1, 1, 2, 2, 2]
    for stages in (((1, 4), (2, 2)), ((1, 5), (2, 2)), ((2, 7),), ((1, 9),)):
        with pytest.raises(CheckpointError, match="no continuation"):
            run(tmp_path, stages=stages, resume=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"arguments": {"rate": 0.6}}, "`rate` was 0.5, and now is 0.6"),
        ({"arguments": {"start": jnp.full(2, 2.0)}}, "`start` was"),
        ({"arguments": {"other": 1}}, "`other` was null"),
        ({"config": {"note": 2}}, "`note` was 1, and now is 2"),
        ({"config": {}}, "`note`"),
        ({"config": {"note": 1}, "labels": {"rate": "a"}}, "`rate` is another than it was"),
    ],
)
def test_other_settings_are_refused(options, match, tmp_path):
    run(tmp_path, callback=until(2), config={"note": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=match):
        run(tmp_path, resume=True, **{"config": {"note": 1}, **options})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_labels_stand_for_arguments(tmp_path):
    labels, unstable = {"rule": "first"}, {"rule": object()}
    with pytest.raises(ValueError, match=r"`rule` holds a object at `rule`.*labels=\{'rule'"):
        run(tmp_path, arguments=unstable)
    run(tmp_path, arguments=unstable, labels=labels, callback=until(1))
    assert same(run(tmp_path, arguments={"rule": object()}, labels=labels, resume=True), run())
    with pytest.raises(CheckpointError, match="`rule`"):
        run(tmp_path, arguments=unstable, labels={"rule": "second"}, resume=True)
    with pytest.raises(ValueError, match=r"none named 'rate_'.*Known: rate, start"):
        run(tmp_path / "x", labels={"rate_": ""})


def test_no_file_of_a_stranger_is_touched(tmp_path):
    for name in ("metrics.jsonl", "report.md", "notes.txt"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"other files \\({name}\\)"):
                run(folder, resume=resume)
        assert [path.read_text() for path in folder.iterdir()] == ["mine"]
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="resume=True"):
        run(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file")


def test_a_lost_checkpoint_is_not_a_new_start(tmp_path):
    run(tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: .* not exist, but .* holds records"):
        run(tmp_path, resume=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_kill_while_the_folder_is_made_is_a_new_start(tmp_path):
    run(tmp_path)
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        (tmp_path / name).unlink()
    assert same(run(tmp_path, resume=True), run())


def spoil(text):
    return lambda path: path.write_text(text(path.read_text()))


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("metrics.jsonl", lambda path: path.unlink(), "does not exist"),
        ("metrics.jsonl", spoil(lambda text: text.replace('{"record": 1', "{record: 1")), "line 2 is damaged"),
        ("metrics.jsonl", spoil(lambda text: text.replace('"record": 1', '"record": 2')), "line 2 is damaged"),
        ("metrics.jsonl", spoil(lambda text: "[1]\n" + text), "line 1 is damaged"),
        ("metrics.jsonl", spoil(lambda text: "1\n" + text), "line 1 is damaged"),
        ("metrics.jsonl", spoil(lambda text: text.replace('"record"', '"rekord"')), "line 1 is damaged"),
        ("metrics.jsonl", spoil(lambda text: text.splitlines()[0] + "\n"), "holds 1 records"),
        ("metrics.jsonl", spoil(lambda text: text.replace(".", ".1", 1)), "not the log that the checkpoint belongs to"),
        ("metrics.jsonl", lambda path: path.write_bytes(b"\xff\xfe\n" * 9), "line 1 is damaged"),
        ("config.json", spoil(lambda text: text[:40]), "not valid JSON"),
        ("config.json", spoil(lambda text: "[]"), "expected a JSON object"),
        ("config.json", spoil(lambda text: "{}"), "does not describe a run"),
        ("config.json", spoil(lambda text: text.replace('"toy"', '"boy"')), "field 'kind'"),
        ("config.json", lambda path: path.unlink(), "holds no run, but other files"),
        ("checkpoint.safetensors", lambda path: path.write_bytes(path.read_bytes()[:300]), "truncated"),
        ("checkpoint.safetensors", lambda path: path.write_bytes(b""), "truncated"),
    ],
)
def test_meddling_is_refused_by_file(file, change, match, tmp_path):
    run(tmp_path, callback=until(3))
    change(tmp_path / file)
    with pytest.raises(ValueError, match=match) as caught:
        run(tmp_path, resume=True)
    assert str(tmp_path) in str(caught.value)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    run(tmp_path / "a", callback=until(3))
    run(tmp_path / "b", callback=until(3), arguments={"rate": 0.1})
    (tmp_path / "b" / "checkpoint.safetensors").replace(tmp_path / "a" / "checkpoint.safetensors")
    with pytest.raises(CheckpointError, match=r"field 'run' is .* not of this run"):
        run(tmp_path / "a", resume=True)


def test_what_the_log_holds_beyond_the_checkpoint_comes_again(tmp_path):
    """As after a kill: complete lines, and one cut short."""
    run(tmp_path, callback=until(2))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"record": 3, "value": 7.0}\n{"record": 4, "va')
    assert same(run(tmp_path, resume=True), run())


def test_an_error_leaves_the_last_record(tmp_path):
    for error in (KeyboardInterrupt, RuntimeError):
        folder = tmp_path / error.__name__

        def fail(record, error=error):
            if record["record"] == 2:
                raise error

        with pytest.raises(error):
            run(folder, callback=fail)
        assert StoredTree(folder / "checkpoint.safetensors").header["records"] == 3
        assert not (folder / LOCK).exists()
        assert same(run(folder, resume=True), run())


class Killed(BaseException):
    """Not an error that anything handles."""


class Disk:
    """Lets the process die at the n-th operation on files: that one is not done, or half of it, and none after it."""

    def __init__(self, monkeypatch, dies_at):
        self.left = dies_at
        for name in ("open", "fsync", "chmod", "replace", "unlink", "ftruncate"):
            monkeypatch.setattr(f"os.{name}", self.counted(getattr(os, name)))
        append = _folder.append_line
        half = lambda path, line: path.write_text(path.read_text() + line[: len(line) // 2])  # noqa: E731
        monkeypatch.setattr(_folder, "append_line", self.counted(append, half))

    def counted(self, function, half=lambda *args: None):
        def wrapped(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                half(*args)
            if self.left <= 0:
                raise Killed
            return function(*args, **kwargs)

        return wrapped


def test_a_kill_at_every_operation_on_files_loses_nothing(tmp_path):
    """Exhaustively: the run dies at its first operation, at its second, and so on; resumed, it ends the same."""
    whole, dies_at, finished = run(stages=((1, 3),)), 0, False
    while not finished:
        dies_at += 1
        folder = tmp_path / str(dies_at)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Disk(monkeypatch, dies_at)
            try:
                run(folder, stages=((1, 3),), checkpoint_seconds=0.0)
                finished = True
            except Killed:
                pass
        resumed = run(folder, stages=((1, 3),), resume=True)
        assert same(resumed, whole), dies_at
        assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.jsonl", "checkpoint.safetensors"}
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == whole.history
    assert dies_at > 30


def test_a_failure_ends_the_run_and_is_not_recorded(tmp_path):
    toy = Toy()

    def advance(state, index):
        return toy.advance(state, index) if index < 3 else Outcome(state * jnp.nan, None, failure="it broke")

    session = run(tmp_path, advance=advance)
    assert (session.failure, session.num_records, len(session.history)) == ("it broke", 3, 3)
    assert bool(jnp.all(jnp.isnan(session.state)))
    assert same(run(tmp_path, resume=True), run())


@pytest.mark.parametrize("limit", [150, 180, 400, 500])
def test_a_full_disk_loses_nothing(limit, tmp_path):
    """The limit on file size makes a real write fail, of a line of the log (150, 180) or of the checkpoint; the run
    then resumes to the same end, with the same log."""
    run(tmp_path, callback=until(0), checkpoint_seconds=0.0)
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*'.+(metrics\.jsonl|\.safetensors|config\.json)'"):
            run(tmp_path, resume=True, checkpoint_seconds=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert same(run(tmp_path, resume=True), run())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_two_runs_do_not_share_a_folder(tmp_path):
    def meanwhile(record):
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"):
            run(tmp_path, resume=True)

    assert same(run(tmp_path, callback=meanwhile), run())


HOLD = """
import fcntl, json, os, socket, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
print("ready", flush=True)
time.sleep(600)
"""


def test_the_lock_of_the_dead_is_no_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / LOCK)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            _refused_while_held(tmp_path, child.pid)
        finally:
            child.kill()
    (tmp_path / ".metrics.jsonl.0123.tmp").write_text("of the dead")
    assert same(run(tmp_path), run())
    assert not (tmp_path / LOCK).exists()
    assert not (tmp_path / ".metrics.jsonl.0123.tmp").exists()


def _refused_while_held(folder, pid):
    with pytest.raises(ValueError, match=f"in use by process {pid}"):
        run(folder)


def test_the_lock_of_another_host_is_one(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(ValueError, match=r"process 1 on elsewhere.*delete .*\.lock"):
        run(tmp_path)
    (tmp_path / LOCK).write_text('{"pi')  # cut short: nobody
    run(tmp_path)


def test_another_version_goes_on_with_a_warning(tmp_path):
    run(tmp_path, callback=until(2))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["versions"]["jax"] = "0.0.1"
    path.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"jax 0\.0\.1, now .* not bit for bit"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"resume": True}, "name it, `run=...`"),
        ({"checkpoint_seconds": -1.0}, "must not be negative"),
        ({"checkpoint_seconds": float("nan")}, "must not be negative"),
        ({"callback": 3}, "`callback` must be a function"),
        ({"callback": [print, None]}, "`callback` must be a function"),
        ({"config": [1]}, "`config` must be a dictionary"),
        ({"labels": "tasks"}, "`labels` must be a dictionary"),
    ],
)
def test_bad_options(options, match, unchecked):
    with pytest.raises(ValueError, match=match):
        run(**options)


def test_every_callback_sees_every_record_and_one_may_stop(tmp_path):
    seen = []
    log = loggers.JSONLines(tmp_path / "log" / "mine.jsonl")
    session = run(callback=[lambda record: record.clear(), until(1), log, seen.append])
    assert session.num_records == 2
    assert seen == session.history
    assert [json.loads(line) for line in (tmp_path / "log" / "mine.jsonl").read_text().splitlines()] == seen


def test_tensorboard_gets_the_numbers(tmp_path, monkeypatch):
    """Each finite number once with its step, also across an interruption; the writer is TensorBoard's own format."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    log = loggers.TensorBoard(tmp_path / "events", prefix="toy/")
    run(tmp_path / "run", callback=[log, until(2)], checkpoint_seconds=1e9)
    log({"step": 9, "text": "no number", "nothing": None, "value": float("nan")})
    log.close()
    run(tmp_path / "run", callback=log, resume=True)  # goes on in another file
    log.close()
    values = {}
    for path in sorted((tmp_path / "events").iterdir()):
        blob, position = path.read_bytes(), 0
        while position < len(blob):  # records: length, its checksum, an event, its checksum
            size = int.from_bytes(blob[position : position + 8], "little")
            event = event_pb2.Event.FromString(blob[position + 12 : position + 12 + size])
            position += size + 16
            for value in event.summary.value:
                assert value.tag == "toy/value"
                values[event.step] = value.simple_value
    assert values == pytest.approx({r["record"]: r["value"] for r in run().history}, rel=1e-6)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'nestax\[tensorboard\]'"):
        loggers.TensorBoard(tmp_path)
