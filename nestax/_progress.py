"""Progress bars for long work."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[int, Callable[[], str]], None]


@contextlib.contextmanager
def progress_bar(total: int, title: str, show: bool) -> Iterator[Report]:
    """Yields `report(done, note)`. `note` is called, and so may wait for the device, only if a bar is shown.

    The bar goes to standard error, so that standard output stays clean for results.
    """
    if not show:
        yield lambda done, note: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda done, note: progress.update(task, completed=done, note=note())
