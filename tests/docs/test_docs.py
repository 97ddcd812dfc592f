"""The documentation is true: its code runs, its commands exist, its pages are complete and up to date."""

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys

import pytest
import typer.main

import nestax
from nestax import cli, recipes

from . import run_documentation
from .run_documentation import ROOT, blocks, docstrings, pages

PACKAGES = [
    "nestax",
    *(f"nestax.{m.name}" for m in pkgutil.iter_modules(nestax.__path__) if m.ispkg and m.name != "cli"),
]
SHELL = ("bash", "console", "sh", "shell")


def generator():
    spec = importlib.util.spec_from_file_location("generate_reproduction", ROOT / "docs" / "generate_reproduction.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = 4


@pytest.mark.documentation
@pytest.mark.parametrize("part", range(PARTS))
def test_all_examples_run(part, tmp_path, tmp_path_factory, worker_id):
    """Pages, docstrings and `examples/`, with the settings that a reader has, in processes of about equal length."""
    report, shared = tmp_path / "report.json", tmp_path_factory.getbasetemp()
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        # Nearly all of the time is compilation. Pages and examples train the same small things, so let them share it
        # within this test run, and compile for speed of compilation: what runs is short.
        "JAX_COMPILATION_CACHE_DIR": str((shared if worker_id == "master" else shared.parent) / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",  # to store what is smaller takes longer than it saves
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-m", run_documentation.__name__, str(report), str(part), str(PARTS)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(report.read_text())
    assert [r["name"] for r in results] == [name for name, _ in run_documentation.jobs()][part::PARTS]
    slowest = sorted(results, key=lambda r: -r["seconds"])[:5]
    print("slowest:", ", ".join(f"{r['name']} {r['seconds']:.1f} s" for r in slowest))
    failures = [f"{r['name']}\n{r['error']}" for r in results if r["error"] is not None]
    assert not failures, "\n\n".join(failures)


def test_every_kind_of_example_is_there():
    """A change of a pattern must not make the test above pass by finding nothing."""
    names = [name for name, _ in run_documentation.jobs()]
    assert {"README.md", "docs/index.md", "docs/rollout.md", "examples/sweep.py"} <= set(names)
    examples = len(list(docstrings()))
    assert examples >= 10
    source = "".join(path.read_text() for path in (ROOT / "nestax").rglob("*.py"))
    assert source.count("```python") == examples, "a docstring's `python` block has no `>>>`, or two blocks"


def test_every_example_has_its_arguments():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(run_documentation.EXAMPLES)


def test_a_wrong_example_fails():
    with pytest.raises(AssertionError, match="Expected"):
        run_documentation.run_doctest(">>> 1 + 1\n3\n", {}, "wrong", ROOT / "wrong.md", 1)
    with pytest.raises(ValueError, match="no example"):
        run_documentation.run_doctest("1 + 1\n", {}, "empty", ROOT / "empty.md", 1)


@pytest.mark.parametrize("path", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_are_closed_and_sketches_parse(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(list(blocks(path))), "a fence is indented, has no language, or is not closed"
    for line, kind, block in blocks(path):
        if kind in ("py", "python") and ">>>" not in block:
            compile("\n" * (line - 1) + block, str(path), "exec")


def commands():
    """Every call of nestax in a shell block, as (page, arguments)."""
    for path in pages():
        for _, kind, block in blocks(path):
            for line in block.splitlines() if kind in SHELL else ():
                for part in re.split(r"&&|\|", line):
                    words = shlex.split(part, comments=True)
                    if words and words[0].rpartition("/")[2] == "nestax":
                        yield str(path.relative_to(ROOT)), words[1:]


@pytest.mark.parametrize(("page", "words"), list(commands()), ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_commands_exist(page, words):
    group = typer.main.get_command(cli.app)
    known = group.commands  # pyright: ignore[reportAttributeAccessIssue]
    assert words[0] in known, page
    # parsed by the command line itself: unknown options and missing arguments are errors; nothing is run
    context = known[words[0]].make_context(words[0], list(words[1:]))
    if words[0] == "reproduce" and context.params["name"]:
        assert context.params["scale"] in recipes.by_name(context.params["name"]).scales


def test_every_command_is_documented():
    text = (ROOT / "docs" / "command-line.md").read_text()
    documented = {words[0] for page, words in commands() if page == "docs/command-line.md"}
    known = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert documented == set(known)
    for option in known["train"].params:
        for name in option.opts:
            shared = name in ("--seed", "--output", "--problem", "--schedule", "--json")
            assert shared or f"`{name}`" in text or f"{name} " in text, name


def test_the_readme_has_the_two_commands_and_short_code():
    path = ROOT / "README.md"
    text = path.read_text()
    assert "\npython3 -m venv .venv && .venv/bin/pip install . && .venv/bin/nestax demo\n" in text
    assert "\npython3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest\n" in text
    jobs = [block for _, kind, block in blocks(path) if kind == "python"]
    assert len(jobs) == len(re.findall(r"^## I ", text, re.MULTILINE)) > 0  # one block per job
    for code in jobs:
        assert 0 < len([line for line in code.splitlines() if line.strip()]) <= 10
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_is_in_the_api_pages(package):
    module = importlib.import_module(package)
    public = {n for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)}
    entries = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    found = set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", entries, re.MULTILINE))
    assert found - {"complex", "guards", "hyper", "l2o", "twin"} == public  # topics of recipes


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_has_a_docstring(package):
    """Constants need none; a class or a function does."""
    module = importlib.import_module(package)
    for name, value in vars(module).items():
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            assert inspect.getdoc(value), f"{package}.{name}"


def test_no_page_is_left_out_of_the_site():
    text = (ROOT / "mkdocs.yml").read_text()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        assert f": {path.relative_to(ROOT / 'docs').as_posix()}\n" in text, path


def test_the_reproduction_page_is_up_to_date():
    assert generator().main(["--check"]) == 0


def a_result(recipe, scale, **changes):
    claims = [
        {
            "id": c.id,
            "kind": ("published", "ours", "control")[i % 3],
            "status": ("holds", "does not hold", "open", "not measured")[i % 4],
            "statement": c.statement,
            "published": "1 | 2",
            "value": 0.123456,
            "holds": i == 0,
            "note": c.tolerance,
        }
        for i, c in enumerate(recipe.claims)
    ]
    return {
        "recipe": recipe.name,
        "scale": scale,
        "seed": 3,
        "claims": claims,
        "metrics": {
            "tables": [{"title": "a table", "markdown": "| a |\n|---|\n| 1 |\n"}],
            "training": {
                "net": {"epochs": 7, "seconds": 240, "best_validation": 0.5, "best_epoch": 3, "skipped_updates": 0}
            },
        },
        "protocol": dataclasses.asdict(recipe.protocol(scale)),
        "version": "0.0.7",
        "device": "an abacus",
        "trials": 5,
        "seconds": 4_000.0,
        **changes,
    }


def write(folder, result, name=None):
    path = folder / (name or f"{result['recipe']}/{result['scale']}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def test_the_generator_with_no_and_with_many_results(tmp_path):
    page = generator().page
    empty = page(tmp_path / "nowhere")
    assert empty.count("No recorded results yet") == len(recipes.RECIPES)
    assert all(recipe.title in empty for recipe in recipes.RECIPES.values())
    for recipe in recipes.RECIPES.values():
        for scale in recipe.scales:
            write(tmp_path, a_result(recipe, scale))
    (tmp_path / "l2o" / "quickstart" / "notes.md").write_text("What was *tried*.\n")
    write(tmp_path, {"machine": "no recipe's result"}, "benchmarks/lstm.json")
    full = page(tmp_path)
    assert "No recorded results yet" not in full
    for text in (
        "does not hold",
        "0.1235",
        r"1 \| 2",
        "an abacus",
        "67 min",
        "Seed 3",
        "| net | 7 | 4 min | 0.5 after epoch 3 | 0 |",
        "**a table**",
        "\nWhat was *tried*.\n",
        "(#l2o-quickstart) | laptop | 1 of 2 hold, 1 not measured | 0 of 1 hold | 0 of 1 hold, 1 open |",
    ):
        assert text in full, text
    assert full == page(tmp_path)


def test_the_generator_sees_a_claim_that_came_later(tmp_path):
    recipe = recipes.by_name("l2o/quickstart")
    write(tmp_path, a_result(recipe, "laptop", claims=[]))
    assert f"**{recipe.claims[0].id}** was added after this run" in generator().page(tmp_path)


def test_the_generator_refuses_results_that_are_not_what_they_say(tmp_path):
    recipe = recipes.by_name("l2o/quickstart")
    result = a_result(recipe, "laptop")
    for changed, message in (
        ({**result, "scale": "paper"}, "belongs in"),
        ({**result, "recipe": "l2o/unknown"}, "belongs in"),
        ({k: v for k, v in result.items() if k != "seed"}, "'seed' is missing"),
        ({**result, "claims": [{"id": "X"}]}, "without a status.*--recheck"),
    ):
        write(tmp_path, changed, "l2o/quickstart/laptop.json")
        with pytest.raises(ValueError, match=message):
            generator().page(tmp_path)


def test_recheck_records_the_verdicts_of_today_and_keeps_the_metrics(tmp_path):
    recipe = recipes.by_name("complex/gan-spectrum")
    write(tmp_path, a_result(recipe, "laptop", metrics={}, notes="old"))
    generator().recheck(tmp_path)
    found = json.loads((tmp_path / recipe.name / "laptop.json").read_text())
    assert found["metrics"] == {}
    assert found["claims"] == recipe.check(found["metrics"], "laptop")
    assert "notes" not in found


def test_check_says_what_to_do(tmp_path, capsys):
    page = tmp_path / "reproduction.md"
    arguments = ["--results", str(tmp_path), "--page", str(page)]
    main = generator().main
    assert main([*arguments, "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
