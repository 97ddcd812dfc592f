"""Fair comparisons of optimizers: tuning, evaluation, tables and plots."""

from .._public import check_arguments as _check_arguments
from ._adaptation import (
    AdaptationComparison as AdaptationComparison,
    AdaptationMethod as AdaptationMethod,
    AdaptationRun as AdaptationRun,
    compare_adaptation as compare_adaptation,
    four_methods as four_methods,
    mean_interval as mean_interval,
    run_adapted as run_adapted,
)
from ._classical import (
    CLASSICAL as CLASSICAL,
    CLASSICAL_FOR_GAMES as CLASSICAL_FOR_GAMES,
    Tunable as Tunable,
)
from ._cost import seconds_per_step as seconds_per_step
from ._evaluate import (
    Curve as Curve,
    Evaluation as Evaluation,
    Summary as Summary,
    device_name as device_name,
    evaluate as evaluate,
    summarize as summarize,
)
from ._game_runs import (
    GameRuns as GameRuns,
    run_games as run_games,
)
from ._report import markdown as markdown, plot as plot, table as table
from ._tune import Tuning as Tuning, tune as tune

_check_arguments(globals())
