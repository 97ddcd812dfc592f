"""The command `nestax`, before anything is imported that takes time: Ctrl-C ends it quietly at any instant."""

import os
import signal
import sys  # and nothing that takes time: until `leave_quietly` Ctrl-C shows a traceback


def leave_quietly() -> None:
    """Lets Ctrl-C end the process at once. Where SIGINT is ignored, as in a background job, it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int = 0, frame: object = None) -> None:
    # The compiler's threads may still be at work: an orderly end would take the memory away under them.
    os._exit(130)


def main() -> None:
    """Imports the command line and calls it."""
    leave_quietly()
    from nestax.cli import main as run

    try:
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        _leave()
    except SystemExit as end:
        leave_quietly()
        if end.code == 130:
            sys.stdout.flush()
            sys.stderr.flush()
            _leave()
        raise


if __name__ == "__main__":
    main()
