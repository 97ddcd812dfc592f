"""The command line: parses, calls the library, prints and plots.

A command imports what it needs when it runs, through `nestax` as any user does, so that `--help` is quick.
"""

from ._app import app as app, main as main
from . import (  # in the order in which the help lists them
    _train as _train,
    _adapt as _adapt,
    _compare as _compare,
    _tune as _tune,
    _diagnose as _diagnose,
    _reproduce as _reproduce,
    _zoo as _zoo,
    _lists as _lists,
)
