"""How each trained optimizer that comes with the package is made, and what its card says in words."""

from collections.abc import Mapping
from typing import Any

from ... import meta
from ._entry import AbstractEntry
from ._games import GameEntry
from ._minimization import Entry, Phase


def _m_l2o(summary: str, fails: tuple[str, ...], trained_on: str, *others: str, **changes: Any) -> Entry:
    """As in the recipes on M-L2O at the scale of a laptop."""
    return Entry(
        summary,
        fails,
        "rnnprop-m-l2o",
        (trained_on,),
        ((100, 100), (500, 20)),
        inner_rate=1e-3,
        num_seeds=2,
        judged_at=(500, 1_000),
        shown_on=(trained_on, *others),
        marks=(100, 500, 1_000),
        rivals=("adam",),
        adaptation_steps=5,
        **changes,
    )


_STRONGER: dict[str, Any] = {
    "problems": ("mnist14-mlp",),
    "shown_on": ("mnist-mlp",),
    "judged_at": (500,),
    "marks": (100, 500, 1_000),
    "num_runs": 2,
}
_HORIZONS = (100, 200, 500, 1_000)

STRONGER: Mapping[str, Entry] = {
    "mixed-momentum": Entry(
        "MixedMomentum, trained on MLP-orig: ahead of tuned classical methods there; steps cost 1.2 to 1.6 of Adam.",
        (
            "Trained on one network with sigmoid units. With rectified units it is ahead of tuned SGD, Nesterov "
            "momentum, Adam and RMSprop until 2,000 steps and behind after 5,000, near ln loss -7 where Adam goes on "
            "to -10; on MLP-deeper ahead until 5,000 and behind after 10,000 (recipe l2o/transfer). Guard it in long "
            "runs.",
            "Its steps fall as 1/t after 2,000 steps: for much longer runs set `decay_after`.",
            "On MLP-orig the lead after 10,000 steps is that of this meta-seed: the two others are behind tuned "
            "RMSprop there, by 0.1 and 1.5, and after 5,000 steps one of them by 0.1.",
        ),
        "mixed-momentum",
        ("mnist10k-mlp",),
        ((5_000, 8),),
        before=(
            Phase(((100, 60), (300, 30), (1_000, 12))),
            Phase(((1_000, 10), (2_000, 2)), unroll=100, late=30, validate_every=2, validation_horizon=5_000),
            Phase(((2_000, 8), (5_000, 8)), unroll=100, pairs=4, validate_every=16, validation_horizon=5_000),
        ),
        judged_phases=2,
        unroll=100,
        pairs=4,
        log_loss=1e-6,
        decaying=True,
        decay_after=2_000.0,
        validate_every=8,  # at the end alone: a choice among such scores would be by chance
        validation_runs=2,
        validation_horizon=5_000,
        judged_at=(500, 2_000, 10_000),
        shown_on=("mnist-mlp", "mnist-mlp-relu", "digits-mlp"),
        marks=(100, 500, 1_000, 2_000, 5_000, 10_000),
        rivals=("adam", "rmsprop", "nesterov"),
        num_runs=3,
    ),
    "rnnprop-mnist": Entry(
        "RNNprop with one layer of 8 units, trained on MLP-orig: for networks of that kind, at equal steps.",
        (
            "On MLP-orig it is ahead of tuned SGD, Nesterov momentum, Adam and RMSprop after 2,000 and 5,000 steps: at "
            "500 and 1,000 Nesterov momentum is as low or lower, at 10,000 RMSprop (recipe l2o/transfer).",
            "After 10,000 steps its runs end between ln loss -7 and -10: guard it in long runs.",
            "A step costs about three of Adam: at equal seconds it is behind.",
        ),
        "rnnprop-medium",
        ("mnist-mlp",),
        ((100, 60), (200, 30), (500, 12), (1_000, 6)),
        log_loss=1e-4,
        imitation=0.3,
        validation_runs=3,
        shown_on=("mnist-mlp",),
        rivals=("adam", "rmsprop", "nesterov"),
        num_runs=3,
    ),
    "l2o-dm": Entry(
        "L2O-DM, as Chen et al. (2020) train their baseline, on a smaller network: runs of 100 steps.",
        (
            "Beyond its training horizon it slows down: at 10,000 steps on MLP-orig it is at ln loss -3.4, "
            "tuned Adam at -6.4, RMSprop at -9.3.",
            "It is not invariant to the scale of the loss: multiply the loss by ten, and it is another optimizer.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 12 steps of Adam: at equal seconds it never pays.",
        ),
        "l2o-dm-stronger-baselines",
        schedule=((100, 400),),
        validate_every=20,
        num_seeds=1,
        **_STRONGER,
    ),
    "l2o-dm-cl-il": Entry(
        "L2O-DM with a curriculum of horizons and imitation of Adam, as Chen et al. (2020), on a smaller network.",
        (
            "Lower than `l2o-dm` from 500 steps on, and still it slows down: at 10,000 steps on MLP-orig it is at ln "
            "loss -3.9, tuned Adam at -6.4, RMSprop at -9.3.",
            "It is not invariant to the scale of the loss: multiply the loss by ten, and it is another optimizer.",
            "With two other meta-seeds it is lower at 10,000 steps, -5.2, but one of these diverged on the same "
            "network with rectified units: guard it.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 12 steps of Adam: at equal seconds it never pays.",
        ),
        "l2o-dm-stronger-baselines",
        schedule=meta.HorizonCurriculum(_HORIZONS, period=20),
        imitation=0.3,
        num_seeds=1,
        **_STRONGER,
    ),
    "rnnprop": Entry(
        "RNNprop with two layers of 20 units, as Chen et al. (2020) train their baseline, on a smaller network.",
        (
            "Beyond some 500 steps it nearly stops: at 10,000 steps on MLP-orig it is at ln loss -2.4, "
            "tuned Adam at -6.4, RMSprop at -9.3.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 14 steps of Adam: at equal seconds it never pays.",
        ),
        "rnnprop-stronger-baselines",
        schedule=((100, 100),),
        num_seeds=1,
        **_STRONGER,
    ),
    "rnnprop-cl-il": Entry(
        "RNNprop with a curriculum of horizons and imitation of Adam, as Chen et al. (2020), on a smaller network.",
        (
            "Lower than `rnnprop` from 500 steps on, and still it slows down: at 10,000 steps on MLP-orig it is at ln "
            "loss -3.7, tuned Adam at -6.4, RMSprop at -9.3.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 14 steps of Adam: at equal seconds it never pays.",
        ),
        "rnnprop-stronger-baselines",
        schedule=meta.HorizonCurriculum(_HORIZONS[:3], period=20),
        imitation=0.3,
        num_seeds=1,
        **_STRONGER,
    ),
    "l2o-scale": Entry(
        "L2O-Scale, the hierarchical RNN, as Chen et al. (2020) train their baseline, on a smaller network.",
        ("Not shipped.",),
        "l2o-scale",
        schedule=((100, 100),),
        relative=True,
        learning_rate=1e-6,
        num_seeds=1,
        **_STRONGER,
    ),
    "l2o-scale-cl-il": Entry(
        "L2O-Scale with a curriculum of horizons and imitation of Adam, as Chen et al. (2020), on a smaller network.",
        ("Not shipped.",),
        "l2o-scale",
        schedule=meta.HorizonCurriculum(_HORIZONS, period=5),
        relative=True,
        learning_rate=1e-6,
        imitation=0.1,
        num_seeds=1,
        **_STRONGER,
    ),
}
"""Trained in recipes: those of "Training stronger baselines for learning to optimize", and one for MLP-orig."""
_SHIPPED = ("mixed-momentum", "rnnprop-mnist", "rnnprop", "rnnprop-cl-il", "l2o-dm", "l2o-dm-cl-il")

ENTRIES: Mapping[str, Entry] = {
    "rnnprop-small": Entry(
        "RNNprop with one layer of 4 units, trained on the digits network: cheap steps, and no end of progress there.",
        (
            "Trained on one network of 1,510 parameters with sigmoid units, on runs of at most 500 steps. All else is "
            "transfer.",
            "On MLP-orig it is level with tuned Adam and RMSprop after equally many steps, but a step costs about two "
            "of theirs: at equal seconds it is behind there.",
            "With another meta-seed one of five runs of 5,000 steps on the digits ended at ln loss -7.9, the others "
            "near -17: guard it in long runs.",
        ),
        "rnnprop-small",
        ("digits-mlp",),
        ((100, 60), (200, 30), (500, 12)),
        log_loss=1e-4,
        imitation=0.3,
    ),
    "m-l2o-small": Entry(
        "As rnnprop-small, but nested (M-L2O, Yang et al. 2023): a start for `nestax.meta.adapt` on classifiers.",
        (
            "It is made to be adapted, and need not be better for it: on two unseen tables and Fashion-MNIST it is "
            "level with the adapted rnnprop-small twice, and behind once (recipe ml2o/real-data).",
            "Trained on one network of 1,510 parameters with sigmoid units, on runs of at most 500 steps. All else is "
            "transfer.",
        ),
        "rnnprop-small",
        ("digits-mlp",),
        ((100, 60), (200, 30), (500, 12)),
        log_loss=1e-4,
        inner_rate=1e-3,
        imitation=0.3,
        num_seeds=2,
        shown_on=("digits-mlp",),
        rivals=("adam",),
    ),
    "m-l2o-lasso": _m_l2o(
        "M-L2O for LASSO: 128 problems of size 10 x 10 at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam at every mark on all three families of the card, and a step takes more than four "
            "times as long: it is for the study of adaptation.",
            "Adaptation gains where the problem is unlike those of the training (normal_lasso), and nothing on "
            "the family of the training.",
            "At sigma=50 the loss rises after 100 steps, and from 500 on it is above that at zero (ln 0.51), "
            "adapted or not.",
        ),
        "uniform_lasso",
        "normal_lasso(sigma=10)",
        "normal_lasso(sigma=50)",
    ),
    "m-l2o-quadratic": _m_l2o(
        "M-L2O for least squares: 128 problems of size 10 x 10 at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam at every mark on all three families of the card, and a step takes more than four "
            "times as long: it is for the study of adaptation.",
            "Adaptation gains where the problem is unlike those of the training (normal_lasso), and nothing on "
            "the family of the training.",
            "At sigma=50 the loss rises after 100 steps, and from 500 on it is above that at zero (ln 0.51), "
            "adapted or not.",
        ),
        "uniform_lasso(l1=0)",
        "normal_lasso(sigma=10, l1=0)",
        "normal_lasso(sigma=50, l1=0)",
    ),
    "m-l2o-rosenbrock": _m_l2o(
        "M-L2O for Rosenbrock's valley: 128 points at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam after 100 steps, ahead after 500 and 1,000; but on problems this small a step "
            "costs about ten of Adam's: at equal seconds no lead is shown.",
            "Adaptation helps a little until 500 steps, and costs a little at 1,000.",
            "Meta-seed 1 is behind by 1.4 in the score. Trained on the sum of losses, as in the recipes, the loss "
            "climbed beyond that of the start.",
        ),
        "RosenbrockBatch",
        log_loss=1e-4,  # trained on the sum of losses, in the hundreds, it climbed
        imitation=0.3,
    ),
    "m-l2o-rastrigin": _m_l2o(
        "M-L2O for Rastrigin's function: 128 problems of size 10 x 10 at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam at every mark on both families of the card; after 500 steps it no longer descends.",
            "Adaptation changes nothing to two digits.",
        ),
        "normal_rastrigin",
        "normal_rastrigin(amplitude=2)",
    ),
    **{name: STRONGER[name] for name in _SHIPPED},
}

GAME_ENTRIES: Mapping[str, GameEntry] = {
    "twin": GameEntry(
        "TwinLSTM (Twin-L2O, Shen et al. 2021, with features of ours): zero-sum games of few coordinates.",
        (
            "On the seesaws that it was trained on, it is nearer after 50 and 200 gradients (medians) than tuned GDA, "
            "OGDA, extragradient and the swap rule, by which each player follows the other one's gradient; after "
            "1,000 the swap rule, which learns nothing, is nearer.",
            "On the easy seesaws, SEESAW_RANGES[1], extragradient is ahead of it from 200 gradients on, and the swap "
            "rule from the start.",
            "It diverges on rotated saddles and on bilinear games of 5 x 5 coordinates, where tuned extragradient "
            "converges or comes nearer: it has learned the seesaw, and is for the study of learned minimax methods. "
            "Train one on games like yours (`nestax.meta.twin_training`, a minute).",
            "Other meta-seeds behave alike on the training games and not beyond: seed 0 solves all rotated saddles.",
            "A step takes some 40 times the processor time of one of GDA on games of two numbers.",
        ),
        "twin",
        ("Seesaw.random(**SEESAW_RANGES[7])",),
        (
            "Seesaw.random(**SEESAW_RANGES[7])",
            "Seesaw.random(**SEESAW_RANGES[1])",
            "RotatedSaddle.random",
            "BilinearGame.random",
        ),
    ),
}
"""For zero-sum games."""

SHIPPED: Mapping[str, AbstractEntry] = {**ENTRIES, **GAME_ENTRIES}
"""All that come with the package."""
