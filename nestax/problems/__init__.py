"""Families of problems."""

from .._public import check_arguments as _check_arguments
from ._classifier import Classifier as Classifier
from ._from_host import FromHost as FromHost
from ._from_loss import FromLoss as FromLoss
from ._composed import (
    MixedGame as MixedGame,
    Subspace as Subspace,
    mixed_dilemma as mixed_dilemma,
    random_subspace as random_subspace,
)
from ._double_well import DoubleWell as DoubleWell
from ._games import (
    DiracGAN as DiracGAN,
    InterpolatedGame as InterpolatedGame,
    random_interpolated_game as random_interpolated_game,
)
from ._gan import (
    GAN_LOSSES as GAN_LOSSES,
    AbstractGAN as AbstractGAN,
    AbstractGANLoss as AbstractGANLoss,
    HingeLoss as HingeLoss,
    MinimaxLoss as MinimaxLoss,
    NonSaturatingLoss as NonSaturatingLoss,
)
from ._gan_pictures import plot_images as plot_images, plot_points as plot_points
from ._instance_batches import (
    LassoBatch as LassoBatch,
    RastriginBatch as RastriginBatch,
    RosenbrockBatch as RosenbrockBatch,
    normal_lasso as normal_lasso,
    normal_rastrigin as normal_rastrigin,
    uniform_lasso as uniform_lasso,
)
from ._iterated_games import (
    DILEMMA as DILEMMA,
    IteratedMatrixGame as IteratedMatrixGame,
    MatchingPennies as MatchingPennies,
    SmallPrisonersDilemma as SmallPrisonersDilemma,
    iterated_prisoners_dilemma as iterated_prisoners_dilemma,
)
from ._image_gan import ImageGAN as ImageGAN, inception_score as inception_score
from ._logistic import LogisticRegression as LogisticRegression
from ._mixture_gan import (
    MixtureGAN as MixtureGAN,
    ModeCoverage as ModeCoverage,
)
from ._nested import (
    NestedClassifier as NestedClassifier,
    NestedLanguageModel as NestedLanguageModel,
)
from ._nested_regression import NestedRegression as NestedRegression
from ._quadratic import Quadratic as Quadratic, random_quadratic as random_quadratic
from ._quadratic_games import BilinearGame as BilinearGame, QuadraticGame as QuadraticGame
from ._rastrigin import Rastrigin as Rastrigin
from ._rosenbrock import Rosenbrock as Rosenbrock
from ._saddle import (
    AbstractSaddleProblem as AbstractSaddleProblem,
    RotatedSaddle as RotatedSaddle,
    Saddle as Saddle,
    Seesaw as Seesaw,
)
from ._sized_games import (
    random_sized_matrix_game as random_sized_matrix_game,
    random_sized_quadratic_game as random_sized_quadratic_game,
)

_check_arguments(globals())
