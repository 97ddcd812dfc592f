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


@pytest.mark.slow
def test_kills_lose_nothing():
    """`kill -9` on real trainings and tunings; `tests/core/test_run.py` dies at every operation on files instead."""
    command = [sys.executable, "-m", "benchmarks.kill_runs", "--rounds", "4", "--kills", "2"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
