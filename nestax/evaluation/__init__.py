"""Fair comparisons of optimizers: tuning, evaluation, tables and plots."""

from ._evaluate import (
    Curve as Curve,
    Evaluation as Evaluation,
    device_name as device_name,
    evaluate as evaluate,
    seconds_per_step as seconds_per_step,
)
from ._game_runs import (
    GameRuns as GameRuns,
    Measures as Measures,
    cost_at as cost_at,
    first_below as first_below,
    run_games as run_games,
    trajectory as trajectory,
)
from ._gan_report import plot_images as plot_images, plot_points as plot_points
from ._report import markdown as markdown, plot as plot, table as table
from ._success import Success as Success, SuccessRate as SuccessRate, success_rates as success_rates
from ._tune import CLASSICAL as CLASSICAL, Tuning as Tuning, tune as tune
from ._tune_games import (
    GAMES as GAMES,
    AbstractGameScore as AbstractGameScore,
    GradientsToReach as GradientsToReach,
    GridSearch as GridSearch,
    MakeGame as MakeGame,
    TailDistance as TailDistance,
    tune_games as tune_games,
)
