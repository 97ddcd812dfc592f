"""The recipes on M-L2O: paired differences, and a choice that does not see the test."""

import pytest

from nestax.recipes._recipe import Results
from nestax.recipes.ml2o import _common, ablation


def test_differences_are_paired():
    cells = {"10/m-l2o": [{"score": 1.0}, {"score": 3.0}], "10/vanilla": [{"score": 2.0}, {"score": 5.0}]}
    out = _common.scores(cells)
    assert out["scores"]["10"]["vanilla"]["mean"] == 3.5
    assert out["minus"]["10"] == {"vanilla": out["minus"]["10"]["vanilla"]}
    assert out["minus"]["10"]["vanilla"]["values"] == [1.0, 2.0]


def test_steps_of_adaptation_are_chosen_in_validation_alone():
    """Five steps are better in the test, none in validation: none are taken. Rivals are those of the paper, by the
    test."""
    results = Results(ablation.Protocol(), {}, 0)
    numbers = {
        "plain/10/0": [(0.0, 5.0), (0.2, 5.0)],
        "plain/10/5": [(1.0, 1.0), (1.0, 1.0)],
        "nested/10/0": [(-1.0, 0.0), (-1.2, 0.0)],
        "nested/10/5": [(-3.0, 0.5), (-3.0, 0.5)],
    }
    for name, seeds in numbers.items():
        for score, validation in seeds:
            results.add(name, {"score": score, "validation": validation})
    out = ablation.summarize(results)
    assert out["chosen"] == {"plain": {"10": "5"}, "nested": {"10": "0"}}
    assert out["against_plain"]["10"]["nested"]["values"] == pytest.approx([-1.0, -1.4])
    assert out["against_plain"]["10"]["plain"]["values"] == pytest.approx([1.0, 0.8])
    claims = {claim.id: claim.check(out) for claim in ablation.CLAIMS}
    assert claims["M8"]["holds"]
    assert claims["M9"]["value"] == {"10": pytest.approx(1.9)}
    assert claims["M10"]["status"] == "not measured"
