"""The command `nestax`, before anything is imported that takes time: Ctrl-C ends it quietly at any instant."""

import os
import signal
import sys


def main() -> None:
    """Imports the command line and calls it. Where SIGINT is ignored, as in a background job, it stays ignored."""
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeds:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from nestax.cli import main as run

    if heeds:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except SystemExit as end:
        if end.code == 130:
            # The compiler's threads may still be at work: an orderly end would take the memory away under them.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise


if __name__ == "__main__":
    main()
