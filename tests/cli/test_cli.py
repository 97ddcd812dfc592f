"""The command line as a user meets it: help, JSON, errors of one line, interruptions."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import pytest
import typer
from typer.testing import CliRunner

import nestax as nx
import nestax_command
from nestax import cli
from nestax._storage import StoredTree
from nestax.cli import _app, _lists
from nestax.data import _images

COMMANDS = (
    "demo",
    "train",
    "adapt",
    "evaluate",
    "diagnose",
    "tune",
    "reproduce",
    "zoo",
    "problems",
    "optimizers",
    "version",
)
ROOT = Path(__file__).parents[2]
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
    assert list(listed["trained, for `--pretrained`"]) == list(nx.learned.PRETRAINED)
    assert list(json.loads(invoke("zoo", "--json").output)) == list(nx.learned.PRETRAINED)
    assert nx.learned.card()["command"] in invoke("zoo", nx.learned.PRETRAINED[0]).output
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
    assert json.loads((folder / "config.json").read_text())["config"]["train"]["problem"] == "quadratic"


def test_train_resumes_from_the_folder_alone(trained):
    folder, summary = trained
    again = json.loads(invoke("train", "--resume", str(folder), "--json").output)
    assert again == summary
    longer = json.loads(invoke("train", "--resume", str(folder), "--schedule", "10x3", "--json").output)
    assert longer["epochs"] == 3


@pytest.mark.training
def test_adapt_writes_an_optimizer_and_compares_it(trained, tmp_path, monkeypatch, capsys):
    where = ["--output", str(tmp_path / "new"), "--problem", "quadratic", "--steps", "1", "--unroll", "5"]
    runs = ["--test-steps", "10", "--seeds", "2"]
    value = json.loads(invoke("adapt", str(trained[0]), *where, *runs, "--json").output)
    before, after = nx.learned.load(trained[0] / "optimizer.safetensors"), nx.learned.load(value["optimizer"])
    assert not eqx.tree_equal(before, after)
    by_hand = nx.meta.adapt(
        before, nx.catalogue.by_name("quadratic"), num_steps=1, unroll=5, key=jax.random.split(jax.random.key(0), 2)[0]
    )
    assert eqx.tree_equal(by_hand.optimizer, after)
    assert value["ln_loss"]["before"] != value["ln_loss"]["after"]
    code, _, error = main(monkeypatch, capsys, "adapt", str(tmp_path / "none.safetensors"), "--problem", "quadratic")
    assert (code, "none.safetensors" in error) == (2, True)


def test_evaluate_compares_and_writes(trained, tmp_path):
    _, summary = trained
    arguments = (summary["optimizer"], "sgd=0.1", "adam", "--problem", "quadratic", "--steps", "20", "--seeds", "2")
    value = json.loads(invoke("evaluate", *arguments, "--output", str(tmp_path / "e"), "--json").output)
    assert len(value["optimizers"]) == 3
    assert "run/optimizer" in value["optimizers"]
    assert "sgd 0.1" in value["optimizers"]
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"evaluation.json", "report.md", "comparison.png"}


TABLE = "a,b,kind\n" + "".join(f"{i % 7},{i % 5},{'xy'[i % 7 > 3]}\n" for i in range(20))


@pytest.mark.training
def test_evaluate_compares_trained_ones_on_a_table_of_the_user(tmp_path, monkeypatch):
    """All but the guard, whose compilation takes long, is run; it is looked at instead."""
    (tmp_path / "t.csv").write_text(TABLE)
    compared, evaluate = {}, nx.evaluation.evaluate

    def without_guard(problem, contestants, **settings):
        compared.update(contestants)
        return evaluate(problem, {k: v for k, v in contestants.items() if "guarded" not in k}, **settings)

    monkeypatch.setattr(nx.evaluation, "evaluate", without_guard)
    arguments = ("adam=0.03", "--pretrained", "default", "--guard", "adam=0.03", "--data", str(tmp_path / "t.csv"))
    short = ("--label", "kind", "--steps", "10", "--seeds", "1")
    value = json.loads(invoke("evaluate", *arguments, *short, "--output", str(tmp_path / "e"), "--json").output)
    name = nx.learned.PRETRAINED[0]
    assert list(compared) == [name, "adam 0.03", f"{name}, guarded by adam 0.03"]
    guard = nx.guards.safeguard(compared[name], compared["adam 0.03"])
    assert eqx.tree_equal(compared[f"{name}, guarded by adam 0.03"], guard)
    assert eqx.tree_equal(compared[name], nx.learned.pretrained())
    assert list(value["optimizers"]) == [name, "adam 0.03"]
    assert value["problem"] == str(tmp_path / "t.csv")
    assert (tmp_path / "e" / "comparison.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Say what to compare"),
        (("--pretrained", "rnnprop-smal"), "Did you mean 'rnnprop-small'"),
        (("adam", "--guard", "adam"), "there is none: add --pretrained default"),
        (("--pretrained", "default", "--guard", "adm"), "Did you mean 'adam'"),
        (("--pretrained", "default", "--guard", "adam", "--steps", "15"), "must be a multiple"),
        (("adam", "--data", "t.csv", "--problem", "quadratic"), "not both"),
        (("adam", "--data", "t.csv"), "Unknown label column 'label'"),
        (("adam", "--data", "t.csv", "--label", "b"), "looks like a number"),
    ],
)
def test_evaluate_says_what_is_missing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,b,kind\n1,1,x\n2,2,y\n3,3,x\n4,4,y\n")
    code, _, err = main(monkeypatch, capsys, "evaluate", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_evaluate_replaces_its_own_files_alone(trained, tmp_path, monkeypatch, capsys):
    folder, _ = trained
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, err = main(monkeypatch, capsys, "evaluate", "sgd=0.1", "--problem", "quadratic", "--output", str(folder))
    assert code == 2
    assert "already holds files" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    command = ("evaluate", "sgd=0.1", "--problem", "quadratic", "--steps", "5", "--seeds", "1", "--json")
    for _ in range(2):
        invoke(*command, "--output", str(tmp_path / "e"))


@pytest.mark.training
def test_tune_writes_a_run_and_goes_on(tmp_path):
    folder = str(tmp_path / "t")
    value = json.loads(invoke("tune", "--outer-steps", "20", "--terms", "3", "--output", folder, "--json").output)
    assert value["last"]["step"] == 20
    assert value["last"]["outer_loss"] < value["first"]["outer_loss"]
    assert {"tuning.png", "report.md", "checkpoint.safetensors"} <= {path.name for path in (tmp_path / "t").iterdir()}
    assert json.loads(invoke("tune", "--resume", folder, "--json").output) == value
    longer = json.loads(invoke("tune", "--resume", folder, "--outer-steps", "30", "--json").output)
    assert (longer["first"], longer["last"]["step"]) == (value["first"], 30)


def test_default_folders_never_collide(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert [str(_app.new_folder(None, "train")) for _ in range(3)] == ["runs/train", "runs/train-2", "runs/train-3"]


@pytest.mark.parametrize("command", ["train", "evaluate", "diagnose", "tune", "demo", "reproduce"])
def test_an_output_that_cannot_be_written_to_is_found_at_once(command, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    arguments = {"evaluate": ["sgd=0.1"], "diagnose": ["sgd=0.1"], "reproduce": ["l2o/quickstart"]}.get(command, [])
    for module in (nx.meta, nx.hyper, nx.evaluation, nx.recipes, nx):
        for name in ("train", "tune", "evaluate", "reproduce", "solve"):
            monkeypatch.setattr(module, name, None, raising=False)  # whatever is computed comes too early
    code, _, err = main(monkeypatch, capsys, command, *arguments, "--output", str(tmp_path / "file" / "x"))
    assert code == 2
    assert "`--output`: cannot write to" in err


def test_a_failed_training_is_status_1(monkeypatch, capsys, tmp_path):
    def fail(*args, **kwargs):
        raise nx.NumericalError("Meta-training failed")

    monkeypatch.setattr(nx.meta, "train", fail)
    code, _, err = main(monkeypatch, capsys, "train", *TINY, "--output", str(tmp_path / "run"))
    assert code == 1
    assert err == "error: Meta-training failed\n"


@pytest.mark.parametrize("columns", [40, 200])
def test_help_is_whole_at_any_width(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in COMMANDS:
        text = invoke(name, "--help").output
        assert max(map(len, text.splitlines())) <= columns
        for parameter in typer.main.get_command(cli.app).commands[name].params:  # pyright: ignore[reportAttributeAccessIssue]
            if parameter.param_type_name == "option":
                assert set(parameter.opts) <= set(re.split(r"[\s,]+", text))
    assert "Tune hyperparameters by hypergradients" in " ".join(invoke("--help").output.split())


def test_lists_know_all_classical_optimizers():
    assert set(_lists._CLASSICAL) == set(nx.evaluation.CLASSICAL)
    assert _app.DEFAULT_PROBLEM == nx.catalogue.DEFAULT


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("evaluate", "adan"), "Did you mean 'adam'"),
        (("evaluate", "adam=fast"), "must be a positive number"),
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
        (("tune", "--resume", "nowhere"), "the file does not exist"),
        (("tune", "--resume", "nowhere", "--terms", "5"), "leave out --terms"),
        (("train", "--learning-rate", "-1"), "must be positive and finite, got -1"),
        (("train", "--learning-rate", "nan"), "must be positive and finite, got nan"),
        (("tune", "--outer-learning-rate", "0"), "must be positive and finite, got 0"),
        (("train", "--schedule", "100x99999999999999999999"), "at most 2,147,483,647 epochs"),
        (("train", "--schedule", f"100x{'9' * 10_000}"), "100x40"),
        (("evaluate", "adam=nan"), "must be a positive number"),
        (("evaluate", "adam=-1"), "must be a positive number"),
        (("diagnose", "adam"), "Say the learning rate"),
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


@pytest.mark.parametrize("arguments", [("--seed", "99999999999999999999"), ("--random-scaling", "-1")])
def test_usage_errors_name_the_option(arguments, monkeypatch, capsys):
    code, _, err = main(monkeypatch, capsys, "train", *arguments)
    assert code == 2
    assert arguments[0] in err
    assert "Traceback" not in err


SITE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)

class Tell:
    def find_spec(self, name, *args):
        if name == os.environ.get("TELL"):
            print("importing", name, flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Tell())
"""
SCRIPT = ("-c", "import nestax_command; nestax_command.main()")  # as the console script does
MODULE = ("-m", "nestax")


def start(folder, *arguments, **environment):
    """The command in a process that heeds SIGINT, though the one that started this test may ignore it."""
    (folder / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, **environment, "PYTHONPATH": path}
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


@pytest.mark.processes
def test_ctrl_c_exits_cleanly_and_the_run_resumes(tmp_path):
    """A real SIGINT to a real process."""
    folder = tmp_path / "run"
    command = ("train", *TINY[:2], "--schedule", "10x4000", "--unroll", "5", "--output", str(folder))
    with start(tmp_path, *SCRIPT, *command, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache")) as child:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text()):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=600)
    assert child.returncode == 130
    assert f"nestax train --resume {folder}" in error.replace("\n", "")
    assert "Traceback" not in error
    assert 1 <= StoredTree(folder / "checkpoint.safetensors").header["records"] < 4_000


INTERRUPTED = {
    "train --output {}": (("meta", "train"), "Go on with: nestax train --resume {}"),
    "tune --output {}": (("hyper", "tune"), "Go on with: nestax tune --resume {}"),
    "demo --output {} --seed 3": (("recipes", "reproduce"), "Go on with: nestax demo --seed 3 --output {}"),
    "reproduce l2o/quickstart --output {}": (
        ("recipes", "reproduce"),
        "Go on with: nestax reproduce l2o/quickstart --scale laptop --seed 0 --output {}",
    ),
    "zoo rnnprop-small --make {}": (
        ("recipes", "make_pretrained"),
        "Go on with: nestax zoo rnnprop-small --make {} --seed 0",
    ),
    # these keep nothing before they are done
    "evaluate adam=0.1 --problem quadratic --output {}": (("evaluation", "evaluate"), "run the command again"),
    "diagnose sgd=0.5 --problem quadratic --after 0 --output {}": (("dynamics", "diagnose"), "run the command again"),
    "adapt rnnprop-small --problem quadratic --output {}": (("meta", "adapt"), "run the command again"),
}


@pytest.mark.parametrize("line", INTERRUPTED)
def test_ctrl_c_names_the_line_that_goes_on(line, monkeypatch, capsys, tmp_path):
    """In every command that takes long."""
    (package, function), expected = INTERRUPTED[line]

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(getattr(nx, package), function, interrupted)
    folder = str(tmp_path / "run")
    code, _, error = main(monkeypatch, capsys, *line.format(folder).split())
    assert code == 130
    assert expected.format(folder) in " ".join(error.split()).replace("- ", "-")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "module"), [(SCRIPT, "jax"), (SCRIPT, "nestax.cli"), (MODULE, "numpy"), (MODULE, "nestax.cli._app")]
)
def test_ctrl_c_during_imports_is_quiet(command, module, tmp_path):
    with start(tmp_path, *command, "version", TELL=module) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == f"importing {module}\n"
        child.send_signal(signal.SIGINT)
        out, error = child.communicate(timeout=600)
    assert (child.returncode, out, error) == (130, "", "")


def test_ctrl_c_before_the_first_command_is_quiet(monkeypatch):
    """Between the imports and what the command line itself catches."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    monkeypatch.setattr(nestax_command, "_leave", lambda: sys.exit("left"))
    with pytest.raises(SystemExit, match="left"):
        nestax_command.main()


class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_python_drops_comes_again_in_silence(capsys):
    """As one does that comes while the garbage collector calls JAX."""

    def work():
        with _app._insistent_interrupts():
            Dropped()
            time.sleep(600)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""


@pytest.mark.recipe
def test_demo_prints_its_tables(monkeypatch, tmp_path):
    """The main job of the README, at the smoke scale: what it reads of the recipe's metrics must be there."""
    recipe = nx.recipes.by_name("l2o/quickstart")
    smoke = dataclasses.replace(recipe.scales["smoke"], classical=("adam",))
    small = dataclasses.replace(recipe, scales={"laptop": smoke})
    monkeypatch.setattr(nx.recipes, "by_name", lambda name: small)
    out = CliRunner().invoke(cli.app, ["demo", "--output", str(tmp_path / "demo")])
    assert out.exit_code == 0, out.output
    assert "steps of Adam here" in " ".join(out.output.split())
