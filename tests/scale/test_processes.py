"""One run made by several processes, over loopback: they agree, one is killed, the others end, the run goes on."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from nestax._processes import Processes, join

from .test_devices import HERE, QUICKLY

pytestmark = pytest.mark.processes


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts processes of a run at once; **returns** of each its exit status, and what it printed, and complained."""
    cache = tmp_path_factory.mktemp("compiled")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
    environment = inherited | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        **QUICKLY,
        "JAX_COMPILATION_CACHE_DIR": str(cache),  # each setting is compiled by several processes, several times
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def started(*settings, num=None, devices=1, script="trains.py", **same):
        port, num = str(free_port()), str(len(settings) if num is None else num)
        texts = [same["folder"] if script != "trains.py" else json.dumps(same | own) for own in settings]
        processes = [
            subprocess.Popen(
                [sys.executable, str(HERE / script), port, num, str(i), text],
                env=environment | {"JAX_NUM_CPU_DEVICES": str(devices)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i, text in enumerate(texts)
        ]
        try:
            said = [process.communicate(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [(process.returncode, *texts) for process, texts in zip(processes, said)]

    return started


def results(ended):
    assert [code for code, _, _ in ended] == [0] * len(ended), [complaint[-2_000:] for _, _, complaint in ended]
    return [json.loads(out.splitlines()[-1]) for _, out, _ in ended]


def test_a_killed_process_ends_the_run_and_others_go_on_with_it(start, tmp_path):
    (alone,) = results(start({}, devices=4, folder=str(tmp_path / "alone"), epochs=6))
    folder = str(tmp_path / "run")
    survivor, victim = start({}, {}, devices=2, folder=folder, killed=1)
    assert victim[0] == -9
    assert survivor[0] == 3
    assert "Another process of this run has ended" in survivor[2]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    # As many devices, in four processes, of which only the first can write.
    blind = {"writes": False}
    four = results(start({}, blind, blind, blind, folder=folder, resume=True))
    assert len({one["digest"] for one in four}) == 1
    # A single one, with one device, goes on with what they have made.
    (single,) = results(start({}, folder=folder, resume=True, epochs=6))
    np.testing.assert_allclose(single["weights"], alone["weights"], rtol=1e-4, atol=1e-6)  # float32, another order
    np.testing.assert_allclose(single["scores"], alone["scores"], rtol=1e-5)


def test_the_end_of_the_first_process_is_noticed(start, tmp_path):
    victim, survivor = start({}, {}, folder=str(tmp_path / "run"), killed=0)
    assert victim[0] == -9
    assert survivor[0] != 0
    assert "Another process of this run has ended" in survivor[2] or "Terminating process" in survivor[2]


@pytest.mark.parametrize(("argument", "values"), [("key", ("seed", 1, 2)), ("run", ("folder", "a", "b"))])
def test_processes_that_were_started_differently_are_refused(start, tmp_path, argument, values):
    name, *choices = values
    own = [{name: str(tmp_path / c) if name == "folder" else c} for c in choices]
    for code, _, complaint in start(*own, **({} if name == "folder" else {"folder": str(tmp_path / "run")})):
        assert code == 2
        assert f"`{argument}` of process 1 is not that of process 0" in complaint
    assert list(tmp_path.iterdir()) == []


def test_trials_of_a_recipe_are_shared(start, tmp_path):
    (alone,) = results(start({}, script="reproduces.py", folder=str(tmp_path / "alone")))
    both = results(start({}, {}, script="reproduces.py", folder=str(tmp_path / "both")))
    assert both[0] == both[1]
    for name, seeds in alone["values"].items():
        assert [x.get("value", "missing") for x in both[0]["values"][name]] == [
            x.get("value", "missing") for x in seeds
        ]
    makers = {x["process"] for name in ("first", "second") for x in both[0]["values"][name]}
    assert makers == {0, 1}


def test_where_the_first_cannot_write_all_say_so(start, tmp_path):
    (tmp_path / "file").write_text("")
    first, second = start({}, {}, folder=str(tmp_path / "file" / "run"))
    assert first[0] == second[0] == 2
    assert "Not a directory" in first[2]
    assert "The first process of the run says: NotADirectoryError" in second[2]


def test_a_process_that_never_joins_is_named(start, tmp_path):
    for code, _, complaint in start({}, {}, num=4, joins=6, folder=str(tmp_path / "run")):
        assert code == 2
        assert "Of 4 processes these did not join in time: 2, 3." in complaint
    (alone,) = start({}, num=2, joins=1, folder=str(tmp_path / "run"))
    assert "did not join in time: 1." in alone[2]


def test_the_first_process_is_waited_for():
    with pytest.raises(ValueError, match=r"Process 0 of 2 did not answer at localhost:\d+ in time"):
        join(f"localhost:{free_port()}", 2, 1, timeout=0.5, heartbeat=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0), "need the address"),
        (("localhost:1", None, 0), "--num-processes"),
        (("localhost:1", 2, 2), "from 0 to N - 1"),
        (("localhost", 2, 1), "HOST:PORT"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        join(*arguments, timeout=1.0, heartbeat=1.0)


def test_one_process_agrees_with_itself():
    alone = Processes()
    alone.agree({"a": "b"})
    assert alone.first(lambda: {"x": (1,)}) == {"x": (1,)}
    assert alone.decide(True)
    with pytest.raises(RuntimeError, match="gloo"), alone.watching():
        raise RuntimeError("gloo")
