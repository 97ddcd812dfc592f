"""Fair comparisons of optimizers: tuning, evaluation, tables and plots."""

from .._public import check_arguments as _check_arguments
from ._evaluate import (
    Curve as Curve,
    Evaluation as Evaluation,
    device_name as device_name,
    evaluate as evaluate,
    seconds_per_step as seconds_per_step,
)
from ._game_runs import (
    GameRuns as GameRuns,
    run_games as run_games,
)
from ._gan_report import plot_images as plot_images, plot_points as plot_points
from ._report import markdown as markdown, plot as plot, table as table
from ._tune import CLASSICAL as CLASSICAL, Tuning as Tuning, tune as tune
from ._tune_games import (
    GAMES as GAMES,
    GridSearch as GridSearch,
    MakeGame as MakeGame,
    tune_games as tune_games,
)

_check_arguments(globals())
