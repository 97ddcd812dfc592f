"""Finds a published file: in a folder of the user's, in the cache, or on the network; never without its checksum."""

import hashlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

# pooch is imported inside the functions that need it: `import nestax` must not pay for it and for `requests` behind it.

DATA_DIR = "NESTAX_DATA_DIR"
"""The environment variable that names a folder with data files, one subfolder per data set."""

TIMEOUT = 20
"""Seconds that a silent mirror is given before the next one is tried."""


class DataError(OSError):
    """A data file is missing, damaged or not in the expected format. The message says which, and what to do."""


def fetch(name: str, filename: str, sha256: str, urls: Sequence[str]) -> pathlib.Path:
    """The path of a data file whose SHA-256 has been checked.

    The file is looked for in `$NESTAX_DATA_DIR/<name>/<filename>`, then in the cache (`pooch.os_cache("nestax")`, laid
    out alike), then downloaded into the cache from the first of `urls` that delivers the right bytes, with a progress
    bar if standard error is a terminal. A file with the wrong checksum is never used, replaced or deleted: it is an
    error, so that whoever put it there hears of it.

    **Arguments:**

    - `name`: the data set, and the name of its folder.
    - `filename`: the published name of the file.
    - `sha256`: the published checksum, 64 hexadecimal digits.
    - `urls`: the complete address on every mirror, tried in this order.

    **Raises** `DataError` if the file is damaged, or is in neither place and no mirror delivers it. The message names
    the file, the expected checksum, the mirrors that were tried, and the two places where it may be put by hand.
    """
    candidates = places(name, filename)
    for place in candidates:
        if place.is_file():
            return check_sha256(place, sha256)
    failures = []
    for url in urls:
        try:
            return _download(url, candidates[-1], sha256)
        except (
            OSError,
            ValueError,
        ) as error:  # every failure of `requests` is an OSError; a wrong checksum a ValueError
            failures.append(f"  {url}\n    {type(error).__name__}: {error}")
    raise DataError(
        f"The data file {name}/{filename} was not found and could not be downloaded.\n"
        f"Expected SHA-256: {sha256}\n"
        "Mirrors tried:\n" + "\n".join(failures or ["  (none given)"]) + "\n"
        "Without a network, put the file by hand into one of the places that were searched:\n"
        f"  {_describe_data_dir(name, filename)}\n"
        f"  {candidates[-1]} (the cache)"
    )


def places(name: str, filename: str) -> list[pathlib.Path]:
    """Where the file may lie, the cache last."""
    import pooch

    folder = os.environ.get(DATA_DIR)
    folders = [pathlib.Path(folder).expanduser()] if folder else []
    return [place / name / filename for place in [*folders, pathlib.Path(pooch.os_cache("nestax"))]]


def _describe_data_dir(name: str, filename: str) -> str:
    folder = os.environ.get(DATA_DIR)
    if not folder:
        return f"${DATA_DIR}/{name}/{filename} (the environment variable {DATA_DIR} is not set)"
    place = pathlib.Path(folder).expanduser()
    note = "" if place.is_dir() else f"; {DATA_DIR}={folder} is not a folder"
    return f"{place / name / filename} (from {DATA_DIR}{note})"


def check_sha256(path: pathlib.Path, sha256: str) -> pathlib.Path:
    """`path`, if the file has this checksum; else `DataError`."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(
            f"The data file {path} is damaged, or is not the published file.\n"
            f"Expected SHA-256: {sha256}\n"
            f"Found SHA-256:    {found}\n"
            "It has been left as it is. Replace it with the published file, or delete it to have it downloaded again."
        )
    return path


def _download(url: str, path: pathlib.Path, sha256: str) -> pathlib.Path:
    """Downloads to a temporary file beside `path`, checks it, renames it. An interruption leaves nothing behind."""
    import pooch

    with _DownloadBar(path.name) as bar:
        # pooch documents a progress bar object here, but annotates a boolean
        options: dict[str, Any] = {"progressbar": bar, "chunk_size": 1 << 16, "timeout": TIMEOUT}
        downloader: Any = pooch.HTTPDownloader(**options)
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader)
    return path


class _DownloadBar:
    """The progress bar that pooch drives: it sets `total`, then calls `update` with bytes, `reset` and `close`."""

    def __init__(self, title: str):
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self.total = 0
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *exception):
        self._progress.stop()

    def update(self, num_bytes: int) -> None:
        self._progress.update(self._task, advance=num_bytes, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
