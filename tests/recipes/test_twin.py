"""The recipes on learned minimax optimizers: their games, their summaries, and what their claims compare."""

import math

import jax
import numpy as np
import pytest

from nestax import Instances, evaluation, optimizers, problems
from nestax.recipes.twin import beyond, safeguard, table_1
from nestax.recipes.twin._compare import draw


def test_steps_to_reach():
    """Gradient descent on a (x^2 - y^2) with a = 1/2 halves the distance per step."""
    games = jax.vmap(lambda a: problems.Saddle(a, a))(np.full(3, 0.5))
    key, tolerance = jax.random.key(0), 1e-3
    starts = jax.vmap(lambda g, k: g.init(k))(
        games, jax.vmap(lambda k: jax.random.split(k, 3)[0])(jax.random.split(key, (3, 1))[:, 0])
    )
    steps = np.ceil(np.log2(np.hypot(*starts) / tolerance))
    grid, score = {"learning_rate": (0.5, 0.0)}, safeguard.steps_to_reach(tolerance)
    search = evaluation.tune(Instances(games), optimizers.sgd, grid, num_steps=20, key=key, score=score)
    stuck = math.log(40) + np.log(np.hypot(*starts) / tolerance).mean()  # the distance does not change
    np.testing.assert_allclose(search.mean_scores(), [np.log(steps).mean(), stuck], rtol=1e-9)


def test_the_unseen_games_are_larger_and_dense():
    seen, unseen = (draw(make, 100, 0).matrix for make in safeguard.GAMES.values())
    assert np.abs(seen).max() <= 1 < 7.9 < np.abs(unseen).max() <= 8
    assert np.mean(np.asarray(seen) == 0) == pytest.approx(0.5, abs=0.04)


def row(median, ninety, solved=1.0):
    return {"median": median, "ninety": ninety, "solved": solved}


def families(ours, classical, untrained, twin=0.0):
    members = dict.fromkeys(beyond.CONTESTANTS, classical)
    for memory in (40, 10):
        members |= {f"TwinKrylov, memory {memory}, seed {s}": ours for s in (0, 1)}
        members[f"TwinKrylov, memory {memory}, untrained"] = untrained
    return {"families": {"matrix-5-seen": members | {"TwinLSTM": row(None, None, twin)}}}


@pytest.mark.parametrize(
    ("ours", "classical", "untrained", "expected"),
    [
        (row(11, 12), row(None, None), row(20, 30), {"B1": True, "B2": True, "B3": True, "B4": False}),
        (row(11, 12), row(12, 13), row(11, 12), {"B1": True, "B2": True, "B3": False, "B4": False}),
        (row(11, 13), row(12, 13), row(20, 30), {"B1": False, "B2": False, "B3": True, "B4": False}),
        (row(11, None), row(12, 13), row(20, 30), {"B1": False, "B2": False, "B3": True, "B4": False}),
    ],
)
def test_claims_of_beyond(ours, classical, untrained, expected):
    metrics = families(ours, classical, untrained)
    assert {c["id"]: c["holds"] for c in beyond.RECIPE.check(metrics, "laptop")} == expected


def table(default, swap, twin, enhanced, largest=2.0):
    def cells(values):
        return {str(n): {"sr1": v, "sr2": v, "largest": largest} for n, v in zip(range(1, 8), values)}

    return {
        "rows": {
            "swap rule 0.06, no learning": cells(swap),
            "default, trained on range 7, seed 0": {**cells(default), "scores": [0.0], "seconds": 1.0},
            "released variant, Twin, seed 0": cells(twin),
            "released variant, Enhanced, seed 0": cells(enhanced),
        }
    }


def test_claims_of_table_1():
    perfect, poor = [100.0] * 7, [100.0, 50, 50, 50, 50, 50, 50]

    def verdicts(*rows, **more):
        return {c["id"]: c["holds"] for c in table_1.RECIPE.check(table(*rows, **more), "laptop")}

    good = verdicts(perfect, poor, poor, perfect)
    assert good == dict.fromkeys(("T1", "T2", "T3", "T4", "T5", "T6", "T7"), True)
    assert not verdicts([98.8] * 7, poor, poor, perfect)["T1"]
    assert not verdicts(perfect, poor, poor, perfect, largest=1e3)["T2"]
    assert not verdicts([100, 99, 99, 99, 97, 99, 99], poor, poor, perfect)["T3"]
    assert not verdicts(perfect, perfect, [99.0] * 7, perfect)["T4"]
    assert not verdicts(perfect, perfect, perfect, poor)["T5"]
    assert not verdicts(perfect, perfect, perfect, perfect)["T6"]
    assert not verdicts([99.0] * 7, perfect, poor, perfect)["T7"]
