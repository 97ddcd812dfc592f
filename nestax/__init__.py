"""nestax: optimization inside optimization, in JAX.

The core is imported here; a package (`nestax.optimizers`, `nestax.meta`, ...) when it is first asked for.
"""

import importlib
import sys
import typing

if sys.argv[:1] == ["-m"] and {"nestax", "-mnestax"} & {*sys.orig_argv}:  # the command line: Ctrl-C ends it quietly
    import nestax_command

    nestax_command.leave_quietly()

from ._public import check_arguments as _check_arguments
from ._family import (
    AbstractFamily as AbstractFamily,
    AnyFamily as AnyFamily,
    FixedProblem as FixedProblem,
    FromSampler as FromSampler,
    Instances as Instances,
    as_family as as_family,
)
from ._gradients import game_jvp as game_jvp, game_vjp as game_vjp, joint_gradient as joint_gradient
from ._mesh import spread as spread
from ._nested import (
    AbstractNested as AbstractNested,
    AbstractNestedExamples as AbstractNestedExamples,
    AbstractNestedModel as AbstractNestedModel,
    InnerProblem as InnerProblem,
    NestedSample as NestedSample,
)
from ._optimizer import (
    AbstractGradientOptimizer as AbstractGradientOptimizer,
    AbstractOptimizer as AbstractOptimizer,
    Cost as Cost,
    StepInfo as StepInfo,
)
from ._problem import (
    AbstractDeterministicProblem as AbstractDeterministicProblem,
    AbstractMinimax as AbstractMinimax,
    AbstractProblem as AbstractProblem,
    Players as Players,
    Sample as Sample,
)
from ._resolvent import AbstractResolvent as AbstractResolvent
from ._rollout import (
    RESULTS as RESULTS,
    AbstractCheckpoint as AbstractCheckpoint,
    AbstractStep as AbstractStep,
    EveryStep as EveryStep,
    KeepAll as KeepAll,
    NumericalError as NumericalError,
    Record as Record,
    Rollout as Rollout,
    Segments as Segments,
    rollout as rollout,
)
from ._solution_files import load_solution as load_solution, save_solution as save_solution
from ._solve import Solution as Solution, SolveRecord as SolveRecord, solve as solve
from ._step import OptimizerStep as OptimizerStep
from ._version import __version__ as __version__

if typing.TYPE_CHECKING:
    from . import (
        catalogue as catalogue,
        data as data,
        dynamics as dynamics,
        evaluation as evaluation,
        guards as guards,
        hyper as hyper,
        hyperparameters as hyperparameters,
        learned as learned,
        loggers as loggers,
        measures as measures,
        meta as meta,
        networks as networks,
        optimizers as optimizers,
        problems as problems,
        recipes as recipes,
    )

_PACKAGES = (
    "catalogue",
    "data",
    "dynamics",
    "evaluation",
    "guards",
    "hyper",
    "hyperparameters",
    "learned",
    "loggers",
    "measures",
    "meta",
    "networks",
    "optimizers",
    "problems",
    "recipes",
)


def __getattr__(name: str):
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES})


_check_arguments(globals())
