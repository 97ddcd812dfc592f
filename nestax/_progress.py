"""Progress of long work: a bar in a terminal, now and then a line in a notebook or a log file."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Report = Callable[[int, Callable[[], str]], None]

_LINE_SECONDS = 10.0  # between two lines, where there is no bar


@contextlib.contextmanager
def progress_bar(total: int, title: str, show: bool) -> Iterator[Report]:
    """Yields `report(done, note)`. `note` is called, and so may wait for the device, only if something is shown.

    All goes to standard error, so that standard output stays clean for results.
    """
    if not show:
        yield lambda done, note: None
    elif sys.stderr.isatty():
        with _bar(total, title) as report:
            yield report
    else:
        yield _lines(total, title)


@contextlib.contextmanager
def _bar(total: int, title: str) -> Iterator[Report]:
    from rich import console, progress  # only here: they take long to import

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
    with progress.Progress(*columns, console=console.Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note())


def _lines(total: int, title: str) -> Report:
    begun = last = time.monotonic()

    def report(done: int, note: Callable[[], str]) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= _LINE_SECONDS:
            last = now
            rest = f", {note()}" if note() else ""
            print(f"{title}: {done:,} of {total:,} in {now - begun:.0f} s{rest}", file=sys.stderr, flush=True)

    return report
