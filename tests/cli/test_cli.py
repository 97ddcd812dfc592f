"""The command line as a user meets it: help, JSON, errors of one line, interruptions."""

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import nestax as nx
from nestax import cli
from nestax.data import _images

COMMANDS = ("demo", "train", "evaluate", "diagnose", "tune", "reproduce", "problems", "optimizers", "version")
TINY = ("--problem", "quadratic", "--schedule", "10x2", "--unroll", "5")


def invoke(*arguments, code=0):
    """Runs the app as `main` does, without a new process."""
    result = CliRunner().invoke(cli.app, list(arguments))
    if code == 0 and result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def main(monkeypatch, capsys, *arguments):
    """Runs the entry point in this process; returns exit status, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["nestax", *arguments])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # leaves this process's configuration alone
    with pytest.raises(SystemExit) as exit:
        cli.main()
    captured = capsys.readouterr()
    return exit.value.code, captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(command):
    text = invoke(command, "--help").output
    assert "Example" in text
    assert "--json" in text


def test_lists_for_people_and_machines():
    listed = json.loads(invoke("problems", "--json").output)
    assert list(listed["problem"]) == nx.catalogue.names()
    assert list(listed["nested problem, for `tune`"]) == list(nx.catalogue.nested_names())
    assert "digits-mlp" in invoke("problems").output
    listed = json.loads(invoke("optimizers", "--json").output)
    assert set(listed["learned"]) == set(nx.learned.PRESETS)
    assert set(listed["classical"]) == set(nx.evaluation.CLASSICAL)
    assert json.loads(invoke("version", "--json").output)["nestax"] == nx.__version__
    assert [r["recipe"] for r in json.loads(invoke("reproduce", "--list", "--json").output)] == list(nx.recipes.RECIPES)
    assert "Q1" in invoke("reproduce", "--list").output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    output = invoke("train", *TINY, "--output", str(folder), "--json").output
    return folder, json.loads(output)


def test_train_writes_a_run_and_says_where(trained):
    folder, summary = trained
    assert summary["epochs"] == 2
    assert nx.learned.load(summary["optimizer"]).config()["scale"] == pytest.approx(0.01)
    assert json.loads((folder / "config.json").read_text())["config"]["command"]["problem"] == "quadratic"


def test_train_resumes_from_the_folder_alone(trained):
    folder, summary = trained
    again = json.loads(invoke("train", "--resume", str(folder), "--json").output)
    assert again["epochs"] == summary["epochs"]
    assert again["final_loss"] == summary["final_loss"]


def test_evaluate_compares_and_writes(trained, tmp_path):
    _, summary = trained
    arguments = (summary["optimizer"], "sgd=0.1", "adam", "--problem", "quadratic", "--steps", "20", "--seeds", "2")
    value = json.loads(invoke("evaluate", *arguments, "--output", str(tmp_path / "e"), "--json").output)
    assert len(value["optimizers"]) == 3
    assert "run/optimizer" in value["optimizers"]
    assert "sgd 0.1" in value["optimizers"]
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"evaluation.json", "report.md", "comparison.png"}


def test_tune_writes_a_run_and_goes_on(tmp_path):
    command = ("tune", "--outer-steps", "20", "--terms", "3", "--output", str(tmp_path / "t"), "--json")
    value = json.loads(invoke(*command).output)
    assert value["last"]["step"] == 20
    assert value["last"]["outer_loss"] < value["first"]["outer_loss"]
    assert {"tuning.png", "report.md", "checkpoint.safetensors"} <= {p.name for p in (tmp_path / "t").iterdir()}
    assert json.loads(invoke(*command, "--resume").output) == value


def test_diagnose_says_what_a_run_does(tmp_path):
    """The catalogue's quadratic has curvatures up to 10 or so: a step of 0.01 contracts."""
    arguments = ("sgd=0.01", "--problem", "quadratic", "--after", "5", "--steps", "20", "--output", str(tmp_path / "d"))
    value = json.loads(invoke("diagnose", *arguments, "--json").output)
    assert value["max_factor"] > 1
    assert (tmp_path / "d" / "diagnosis.png").exists()
    assert "At its end the largest eigenvalue of the step is" in invoke("diagnose", *arguments).output


def test_default_folders_never_collide(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first = cli._new_folder("train")
    first.mkdir(parents=True)
    assert cli._new_folder("train") != first


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("evaluate", "adan"), "Did you mean 'adam'"),
        (("evaluate", "adam=fast"), "must be a number"),
        (("evaluate", "nowhere.safetensors"), "nowhere.safetensors: the file does not exist"),
        (("evaluate", "adam", "--problem", "digits-mpl"), "Did you mean 'digits-mlp'"),
        (("train", "--optimizer", "rnnprob"), "Did you mean 'rnnprop'"),
        (("train", "--problem", "rosenbrok"), "Did you mean 'rosenbrock'"),
        (("train", "--schedule", "100*40"), "100x40"),
        (("train", "--meta-loss", "max"), "Unknown meta-loss"),
        (("train", "--resume", "nowhere"), "the file does not exist"),
        (("train", "--resume", "nowhere", "--unroll", "5"), "leave out --unroll"),
        (("diagnose", "sgd"), "Say the learning rate of the run: sgd=0.01"),
        (("tune", "--problem", "digits-decy"), "Did you mean 'digits-decay'"),
        (("tune", "--method", "magic"), "Unknown method 'magic'"),
        (("tune", "--resume"), "name that folder"),
        (("reproduce", "l2o/quickstat"), "Did you mean 'l2o/quickstart'"),
        (("reproduce", "l2o/quickstart", "--scale", "smok"), "Did you mean 'smoke'"),
    ],
)
def test_errors_are_one_line_and_status_2(arguments, match, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = main(monkeypatch, capsys, *arguments)
    assert code == 2
    assert match in err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_missing_data_says_where_to_put_them(monkeypatch, capsys, tmp_path):
    """Without a network and without a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NESTAX_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.retrieve", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no network")))
    _images._load.cache_clear()  # an earlier test may have loaded the real files
    code, _, err = main(monkeypatch, capsys, "train", "--problem", "fashion-mnist-mlp")
    assert code == 2
    assert "train-images-idx3-ubyte.gz" in err
    assert "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84" in err
    assert str(tmp_path) in err


def test_ctrl_c_exits_cleanly_and_the_run_resumes(tmp_path):
    """A real SIGINT to a real process, then `--resume` to the end."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "nestax.cli", "train", "--problem", "quadratic", "--schedule", "10x4000"]
    command += ["--unroll", "5", "--output", str(folder)]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text()):
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=120)
    assert child.returncode == 130
    assert f"nestax train --resume {folder}" in error.replace("\n", "")
    assert "Traceback" not in error
    reached = len((folder / "metrics.jsonl").read_text().splitlines())
    assert 1 <= reached < 4_000
