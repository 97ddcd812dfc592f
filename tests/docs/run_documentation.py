"""Runs every example of the documentation with JAX's default settings, as a reader would.

    python -m tests.docs.run_documentation REPORT.json [PART PARTS]

Started by `test_docs.py` in one process of its own, since the other tests run under stricter settings. Run are

- every `python` block of `README.md`, `CONTRIBUTING.md` and `docs/`, page by page with one namespace per page: by
  doctest where it starts with `>>>`, as a script otherwise. Other kinds of blocks are not run; `py` is for sketches;
- every docstring of the package that holds `>>>`, each in an empty namespace;
- every file in `examples/`, by its `main` with the arguments in `EXAMPLES`.

The report is a list of `{"name", "seconds", "error"}`, with `error` null where all went well.
"""

import ast
import contextlib
import doctest
import io
import json
import os
import re
import runpy
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import compiling

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Small enough for seconds: what is tested is that the example runs, not what it shows. Shapes are those of the pages
# where possible, so that both share their compiled programs.
EXAMPLES: dict[str, dict[str, Any]] = {
    "custom_problem.py": {"epochs": 1, "steps": 20, "problems": 4},
    "first_hour.py": {"steps": 20, "problems": 2},
    "optax_loop.py": {"epochs": 1, "steps": 3},
    "per_weight_decay.py": {"outer_steps": 20, "inner_steps": 1},
    "sweep.py": {"steps": 20, "seeds": 2},
    "train_and_use.py": {"epochs": 1, "steps": 100, "seeds": 5, "rivals": ("adam",)},
}
# Trainings on the pages are of a length that teaches something; here they are cut, and nothing else is changed.
SHORTER = {
    "schedule=[(100, 100)]": "schedule=[(20, 2)]",
    "num_steps=500": "num_steps=100",
    "num_steps=2_000, key=jax.random.key(0), record_every=100": "num_steps=100, key=jax.random.key(0)",
    "num_outer_steps=1_000": "num_outer_steps=20",
}

Job = tuple[str, Callable[[], None]]


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, kind and text of every fenced block of a page."""
    text = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start(2)) + 1, match[1], match[2]


def docstrings() -> Iterator[tuple[str, Path, str]]:
    """Every docstring with an example, by the name of what it documents."""
    for path in sorted((ROOT / "nestax").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if ">>>" in text:
                    yield f"{module}:{getattr(node, 'name', '')}", path, text


def run_doctest(text: str, namespace: dict[str, Any], name: str, path: Path, line: int) -> None:
    test = doctest.DocTestParser().get_doctest(text, namespace, name, str(path), line - 1)
    if not test.examples:
        raise ValueError("no example found")
    test.globs = namespace  # names defined here are for the next block of the page, too
    output = io.StringIO()
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.write, clear_globs=False)
    if failed:
        raise AssertionError(output.getvalue())


def run_page(path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for line, kind, text in blocks(path):
        if kind != "python":
            continue
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        if text.lstrip().startswith(">>>"):
            run_doctest(text, namespace, path.name, path, line)
        else:
            exec(compile("\n" * (line - 1) + text, str(path), "exec"), namespace)


def run_example(path: Path) -> None:
    runpy.run_path(str(path))["main"](**EXAMPLES[path.name])


def jobs() -> Iterator[Job]:
    for path in pages():
        if any(kind == "python" for _, kind, _ in blocks(path)):
            yield str(path.relative_to(ROOT)), lambda path=path: run_page(path)
    for name, path, text in docstrings():
        yield name, lambda name=name, path=path, text=text: run_doctest(text, {}, name, path, 1)
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield str(path.relative_to(ROOT)), lambda path=path: run_example(path)


def main(report: Path, part: int = 0, parts: int = 1) -> None:
    compiling.share_contexts()
    compiling.collect_less_garbage()
    results = []
    for name, run in list(jobs())[part::parts]:
        started, error, output = time.process_time(), None, io.StringIO()
        with tempfile.TemporaryDirectory() as folder:  # examples write to where they are
            os.chdir(folder)
            try:
                with contextlib.redirect_stdout(output):
                    run()
            except Exception:
                error = traceback.format_exc()
            os.chdir(ROOT)
        results.append({"name": name, "seconds": round(time.process_time() - started, 2), "error": error})
    report.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
