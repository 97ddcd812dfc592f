"""Recipes: they run at smoke scale, and their claims can fail."""

import json
from pathlib import Path

import jax
import pytest

from nestax import recipes
from nestax.recipes import Claim
from nestax.recipes._claims import _MISSING
from nestax.recipes.l2o._stronger import CONVS, MLPS

SMOKE = tuple(recipes.RECIPES)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.recipe) for name in SMOKE])
def result(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.replace("/", "-"))
    yield folder, recipes.reproduce(recipes.by_name(request.param), "smoke", 0, folder)
    jax.clear_caches()  # one recipe compiles what no other one uses; see `tests/conftest.py`


def test_smoke_scale_runs_and_writes(result):
    folder, value = result
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(value, allow_nan=False))
    assert (folder / "report.md").read_text().startswith(f"# {value['recipe']}")
    for claim in value["claims"]:
        assert set(claim) == {"id", "kind", "statement", "published", "value", "holds", "status", "note"}
        assert isinstance(claim["holds"], bool)
    for claim in recipes.by_name(value["recipe"]).claims:
        if claim.always is not None:
            assert claim.check(value["metrics"], "smoke")["holds"] == claim.always, claim.id


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_has_three_scales_and_unique_claims(name):
    recipe = recipes.by_name(name)
    assert tuple(recipe.scales) == recipes.SCALES
    ids = [claim.id for claim in recipe.claims]
    assert len(ids) == len(set(ids)) > 0
    assert all(claim.tolerance for claim in recipe.claims)


def test_an_unmeasured_value_does_not_hold():
    claim = Claim("X", "statement", "1", lambda metrics: None, lambda value: True, "none")
    assert claim.check({})["holds"] is False


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_claim_can_fail(name):
    for claim in recipes.by_name(name).claims:
        if claim.fails is not _MISSING:
            assert not claim.holds(claim.fails), claim.id


def test_unknown_names_suggest_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'l2o/quickstart'"):
        recipes.by_name("l2o/quikstart")
    with pytest.raises(ValueError, match="Did you mean 'laptop'"):
        recipes.reproduce(recipes.by_name("l2o/quickstart"), "labtop", 0, tmp_path)


NEVER_MEASURED = {
    # recorded on the digits only, for want of time
    "l2o/seconds": {f"MLP-{name}-{mark}" for name in ("orig", "ReLU", "deeper") for mark in (2_000, 10_000)},
    # two networks of five, without longer runs
    "l2o/ablation": {
        *(f"AUG-{name}" for name in (*MLPS, *CONVS)),
        *(f"{claim}-{name}" for claim in ("C4", "C4-both") for name in (*MLPS[2:], *CONVS)),
    },
    # three networks of five, four methods of six
    "l2o/stronger-baselines": {"C1", "C2-conv", "C3-rnnprop", "C3-scale", "C5", "C5-conv", "C8-conv"},
    # Conv-CIFAR alone
    "l2o/transfer-convolutional": {
        f"{name}-Conv-MNIST" for name in ("guarded", "rnnprop-mnist", "rnnprop-mnist-guarded")
    },
    "lyapunov/gan": {"G4"},  # runs at scale 10 overflow
}


RECORDED = sorted((Path(__file__).parents[2] / "results").rglob("*.json"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recorded_results_are_what_the_recipes_claim(path):
    """Every recorded verdict is the one that today's claims give on the recorded metrics."""
    recorded = json.loads(path.read_text())
    recipe = recipes.by_name(recorded["recipe"])
    assert path.parts[-3:] == (*recorded["recipe"].split("/"), f"{recorded['scale']}.json")
    verdicts = {c["id"]: (c["value"], c["holds"]) for c in recorded["claims"]}
    assert {
        c.id: (c.check(recorded["metrics"])["value"], c.check(recorded["metrics"])["holds"]) for c in recipe.claims
    } == verdicts
    unmeasured = {name for name, (value, _) in verdicts.items() if value is None}
    assert unmeasured == NEVER_MEASURED.get(recipe.name, set())
    for claim in recipe.claims:
        if claim.always is not None:
            assert verdicts[claim.id][1] == claim.always, claim.id
