"""The recipes on learned minimax optimizers: their games, their counts, and claims that can fail."""

import jax
import numpy as np
import pytest

from nestax import recipes
from nestax.recipes.twin import _beyond_games as games, ablation, beyond, rewards, table_1


@pytest.fixture(scope="module")
def drawn():
    """Twenty quadratic games and twenty matrix games of random sizes."""
    keys = jax.random.split(jax.random.key(0), 20)
    return jax.vmap(games.random_quadratic_game)(keys), jax.vmap(games.random_matrix_game)(keys)


def test_padded_games_have_the_spectra_that_they_say(drawn):
    quadratic, matrix = (jax.tree.map(np.asarray, g) for g in drawn)
    sizes = set()
    for i in range(20):
        values = np.linalg.eigvalsh(quadratic.own[i])[::-1]
        rows = int((values > 1e-8).sum())
        columns = int((np.linalg.eigvalsh(quadratic.other[i]) > 1e-8).sum())
        sizes |= {rows, columns}
        condition = values[0] / values[rows - 1]
        assert values[0] == pytest.approx(1.0)
        assert 1 <= condition <= 100.001
        # the coordinates that are not used have gradient zero
        assert not quadratic.own[i][rows:].any()
        assert not quadratic.coupling[i][rows:].any()
        assert not quadratic.coupling[i][:, columns:].any()
        singular = np.linalg.svd(quadratic.coupling[i], compute_uv=False)[: min(rows, columns)]
        assert singular[0] / singular[-1] == pytest.approx(condition) or min(rows, columns) < 2 or rows < 2
        assert np.abs(matrix.coupling[i]).max() <= 1
        assert not matrix.own[i].any()
    assert min(sizes) >= 2
    assert max(sizes) <= 20
    assert len(sizes) > 8
    signs = np.sign(matrix.coupling[matrix.coupling != 0])
    assert abs(signs.mean()) < 0.2


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
    assert {c["id"]: c["holds"] for c in (claim.check(metrics) for claim in beyond.CLAIMS)} == expected


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
        return {c["id"]: c["holds"] for c in (claim.check(table(*rows, **more)) for claim in table_1.CLAIMS)}

    good = verdicts(perfect, poor, poor, perfect)
    assert good == dict.fromkeys(("T1", "T2", "T3", "T4", "T5", "T6", "T7"), True)
    assert not verdicts([98.8] * 7, poor, poor, perfect)["T1"]
    assert not verdicts(perfect, poor, poor, perfect, largest=1e3)["T2"]
    assert not verdicts([100, 99, 99, 99, 97, 99, 99], poor, poor, perfect)["T3"]
    assert not verdicts(perfect, perfect, [99.0] * 7, perfect)["T4"]
    assert not verdicts(perfect, perfect, perfect, poor)["T5"]
    assert not verdicts(perfect, perfect, perfect, perfect)["T6"]
    assert not verdicts([99.0] * 7, perfect, poor, perfect)["T7"]


def test_claims_of_the_ablation():
    near, far = {"mean_x": 1e-3, "mean_y": 1e-4}, {"mean_x": 0.3, "mean_y": None}
    for ours, others, expected in ((near, far, [True, True]), (far, near, [False, False])):
        rows = {
            f"{recipe}, {mode}": [ours if mode == "two-lstm-two-hidden" else others] * 2
            for recipe in ("released", "default")
            for mode in ablation.SHARING
        }
        assert [claim.check({"rows": rows})["holds"] for claim in ablation.RECIPE.claims] == expected * 2


def test_claims_of_the_rewards():
    def metrics(good, bad):
        trains = ("own variable, memoryless", "relative gradient norm, default rule")
        return {
            "rows": {
                name: [{which: {"sr1": good if name in trains else bad} for which in ("selected", "last")}] * 2
                for name in rewards.VARIANTS
            }
        }

    assert all(claim.check(metrics(100.0, 0.0))["holds"] for claim in rewards.CLAIMS)
    assert not any(claim.check(metrics(40.0, 90.0))["holds"] for claim in rewards.CLAIMS)


def test_they_are_registered():
    for name in ("ablation", "table-1", "rewards", "beyond"):
        assert recipes.by_name(f"twin/{name}").name == f"twin/{name}"
