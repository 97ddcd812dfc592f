"""What all commands share: their options, folders, errors, interruptions and output."""

import contextlib
import inspect
import json
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import typer.core

from .._folder import CONFIG, check_new_folder
from .._processes import Processes, ProcessLost, join
from .._rollout import NumericalError
from .._storage import CheckpointError, read_json

DEFAULT_PROBLEM = "digits-mlp"
_NARROW = 60  # columns below which the options of a help page stand above their texts, not beside them
_AGAIN_SECONDS, _SOON_SECONDS = 5.0, 0.05  # until an interrupt comes again that something swallowed, or Python dropped


# Typer brings its own copy of click in some versions, so its classes are taken from it.
_BaseContext: Any = typer.core.TyperCommand.context_class
_BaseFormatter: Any = _BaseContext.formatter_class


class _Formatter(_BaseFormatter):
    """Help pages that are whole at any width."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        columns = shutil.get_terminal_size().columns
        self.is_narrow = columns < _NARROW
        if self.is_narrow:
            self.width = max(columns - 1, 20)

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl(rows, 2 if self.is_narrow else col_max, col_spacing)


class _Context(_BaseContext):
    formatter_class = _Formatter


class _Command(typer.core.TyperCommand):
    context_class = _Context

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # where there is a run, `naming_resumption` has caught it
            say("Stopped. Nothing was begun that could go on: run the command again.")
            sys.exit(130)


class _Group(typer.core.TyperGroup):
    context_class = _Context


app = typer.Typer(
    name="nestax",
    help="Optimization inside optimization: learn optimizers, use them, compare them.",
    no_args_is_help=True,
    cls=_Group,
    rich_markup_mode=None,  # its tables cut names off
    pretty_exceptions_enable=False,
    add_completion=False,
)

Function = TypeVar("Function", bound=Callable[..., None])


def command(name: str | None = None) -> Callable[[Function], Function]:
    """Makes a command of a function; the first paragraph of its docstring stands in the list of commands."""

    def register(function: Function) -> Function:
        first = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
        return app.command(name, cls=_Command, short_help=first)(function)

    return register


def _rate(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"A learning rate must be positive and finite, got {value:g}.")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines, and nothing else, on standard output.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Fixes everything random.")]
Output = Annotated[Path | None, typer.Option(help="New folder to write to. Default: one under ./runs.")]


Distributed = Annotated[
    bool, typer.Option("--distributed", help="One of several processes, as SLURM or Open MPI starts them.")
]
Coordinator = Annotated[
    str | None, typer.Option(help="One of several processes, by hand: HOST:PORT of the first, the same for all.")
]
NumProcesses = Annotated[int | None, typer.Option(min=1, help="How many processes there are.")]
ProcessId = Annotated[int | None, typer.Option(min=0, help="Which of them this is, from 0.")]
JoinTimeout = Annotated[float, typer.Option(min=0.1, help="Seconds until all processes must have joined.")]
_HEARTBEAT = 60.0  # seconds without a sign of life after which a process counts as lost


def join_processes(
    distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> Processes:
    """The processes of a command, after all have joined. Before anything else that JAX does."""
    if not distributed and coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ValueError("`--num-processes` and `--process-id` need `--coordinator HOST:PORT`.")
        return Processes()
    if distributed and coordinator is not None:
        raise ValueError("`--distributed` asks the cluster for what `--coordinator` says: give one of them.")
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print on standard output, such as gloo, is not for machines
    join(coordinator, num_processes, process_id, timeout=timeout, heartbeat=_HEARTBEAT)
    import jax

    return Processes(shared=jax.process_count() > 1)


def rate_option(help: str) -> Any:
    """An option for a learning rate."""
    return typer.Option(help=help, callback=_rate)


def main() -> None:
    """Entry point. Errors that the user can fix are one line on standard error and exit status 2; a computation that
    failed is exit status 1, and Ctrl-C is 130."""
    _enable_compilation_cache()
    with _clean_errors(), _insistent_interrupts():
        app()


@contextlib.contextmanager
def _clean_errors() -> Iterator[None]:
    try:
        yield
    except (NumericalError, ProcessLost) as error:
        _fail(error, 1)
    except (ValueError, CheckpointError, OSError) as error:  # a `DataError` is an `OSError`
        _fail(error, 2)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


def _fail(error: Exception, status: int) -> None:
    lines = " ".join(str(error).splitlines())
    say(f"[bold red]error:[/] {escaped(lines)}")
    if _leaves_others(error):  # they wait for this process: an orderly end would wait for them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _leaves_others(error: Exception) -> bool:
    """Whether this is one of several processes, and the only one that fails."""
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1 and not getattr(error, "everywhere", False)


@contextlib.contextmanager
def _insistent_interrupts() -> Iterator[None]:
    """Python drops a `KeyboardInterrupt` that comes in a callback of JAX or of a garbage collection, with a traceback:
    say nothing, and raise it again."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as in a background job
    if not heeded or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        raise KeyboardInterrupt

    def unraisable(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _SOON_SECONDS)
        else:
            hook(dropped)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _enable_compilation_cache() -> None:
    """Compiled programs are kept between calls: compilation is most of what a short command costs."""
    import jax
    import platformdirs

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(platformdirs.user_cache_dir("nestax")) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def say(text: str) -> None:
    """A line for people on standard error."""
    from rich.console import Console

    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def show(*values: Any) -> None:
    """Text and tables for people on standard output."""
    from rich.console import Console

    for value in values:
        Console().print(value, highlight=False)


def escaped(text: str) -> str:
    """Text whose brackets are no markup."""
    from rich.markup import escape

    return escape(text)


def new_table(title: str | None, columns: Mapping[str, str]) -> Any:
    """A table with a title and columns: their names, and `"left"` or `"right"`."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name, side in columns.items():
        table.add_column(name, justify=side)  # pyright: ignore[reportArgumentType]
    return table


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def shows_progress(as_json: bool) -> bool:
    return not as_json and sys.stderr.isatty()


def new_folder(given: Path | None, name: str, own: tuple[str, ...] = ()) -> Path:
    """The folder to write to, made and seen to be writable: `given`, or `runs/name`, `runs/name-2` and so on.

    **Arguments:** `own`: files that the command may replace where all of them are there, which it wrote before.
    """
    if given is not None:
        check_new_folder(given, "--output", holds=own if all((given / file).exists() for file in own) else ())
        return given
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()  # exclusive: of two commands at once, one gets the next number
            return folder
        except FileExistsError:
            number += 1


def resumed_options(folder: Path, command: str) -> tuple[dict[str, Any], list[list[int]]]:
    """The options with which `command` started the run in a folder, and its stages."""
    config = read_json(folder / CONFIG)
    stored = config.get("config")
    options = stored.get(command) if isinstance(stored, dict) else None
    if not isinstance(options, dict):
        raise CheckpointError(
            f"{folder / CONFIG}: field 'config.{command}' is missing, so `nestax {command}` did not start it."
        )
    return options, config["stages"]


def refuse_others(given: Mapping[str, Any], defaults: Mapping[str, Any], allowed: tuple[str, ...] = ()) -> None:
    """**Raises** `ValueError` for options beside `--resume`, which takes them from the run."""
    for name, value in given.items():
        if name not in allowed and value != defaults[name]:
            raise ValueError(f"`--resume` takes all settings from the run; leave out --{name.replace('_', '-')}.")


@contextlib.contextmanager
def naming_resumption(command: str) -> Iterator[None]:
    """Lets Ctrl-C say how to go on: with `command`."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nStopped. Go on with: {escaped(command)}")
        sys.exit(130)
