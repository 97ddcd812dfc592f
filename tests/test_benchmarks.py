"""Benchmarks are not run by tests, but they must start: arguments, imports, and a text that says what they measure."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_help(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "--json" in out.stdout
    assert len(out.stdout) > 500
