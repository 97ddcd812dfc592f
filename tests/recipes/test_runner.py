"""The runner of recipes, on a toy: what is kept, what is counted, what is summarized."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from nestax import RESULTS, data, optimizers, problems, recipes, solve
from nestax.recipes import at, below
from nestax.recipes._runner import plain
from nestax.recipes._training import in_parts


@dataclasses.dataclass(frozen=True)
class Protocol:
    rates: tuple[float, ...] = (0.5, 0.25)
    num_steps: int = 3
    num_seeds: int = 2


class Toy:
    """Contracts 1 by `rate` for `num_steps` steps; counts its calls, and can be told to be killed at one."""

    def __init__(self, killed_at=None):
        self.calls, self.trained, self.killed_at = [], 0, killed_at

    def measure(self, trial, rate):
        if len(self.calls) == self.killed_at:
            self.killed_at = None
            raise KeyboardInterrupt
        self.calls.append((trial.cell, trial.seed))
        start = trial.once("start", self.train)
        return {"end": start * rate**trial.protocol.num_steps + trial.repetition, "never": np.inf, "name": "toy"}

    def train(self, folder):
        self.trained += 1
        return 1.0

    def recipe(self, protocol=None, **changes):
        return recipes.Recipe(
            **{
                "name": "toy/halving",
                "title": "A toy",
                "source": "nobody",
                "scales": dict.fromkeys(recipes.SCALES, protocol or Protocol()),
                "cells": lambda protocol: recipes.grid(rate=protocol.rates),
                "measure": self.measure,
                "axes": ("rates",),
                "claims": (
                    recipes.Claim("T", "It falls.", "none", at("cells", "0.5", "end", "mean"), below(1), "The end."),
                ),
                **changes,
            }
        )


def run(recipe, folder):
    return recipes.reproduce(recipe, "smoke", 0, folder)


def test_a_trial_is_computed_once(tmp_path):
    toy = Toy()
    first = run(toy.recipe(), tmp_path)
    assert toy.calls == [("0.5", 0), ("0.5", 1), ("0.25", 0), ("0.25", 1)]
    assert toy.trained == 1
    kept = {path: path.read_bytes() for path in tmp_path.glob("cells/*/*.json")}
    assert len(kept) == 4
    assert run(toy.recipe(), tmp_path)["metrics"] == first["metrics"]
    assert (len(toy.calls), toy.trained) == (4, 1)
    assert {path: path.read_bytes() for path in kept} == kept
    assert json.loads((tmp_path / "result.json").read_text())["metrics"] == first["metrics"]
    assert (tmp_path / "report.md").read_text().startswith("# toy/halving")


def test_what_a_trial_depends_on_computes_it_anew(tmp_path):
    toy = Toy()
    run(toy.recipe(), tmp_path)
    run(toy.recipe(Protocol(rates=(0.25, 0.125), num_seeds=3)), tmp_path)  # only the grid has changed
    assert toy.calls[4:] == [("0.25", 2), ("0.125", 0), ("0.125", 1), ("0.125", 2)]
    run(toy.recipe(Protocol(num_steps=4)), tmp_path)
    assert len(toy.calls) == 8 + 4
    recipes.reproduce(toy.recipe(Protocol(num_steps=4)), "smoke", 1, tmp_path)
    assert toy.calls[-1] == ("0.25", 1_001)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    toy = Toy(killed_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(toy.recipe(), tmp_path)
    assert len(toy.calls) == 3
    assert run(toy.recipe(), tmp_path)["metrics"] == run(Toy().recipe(), tmp_path / "whole")["metrics"]
    assert len(toy.calls) == 4


def test_seconds_are_those_of_all_trials_whenever_they_ran(tmp_path):
    toy = Toy()
    run(toy.recipe(), tmp_path)
    for number, path in enumerate([*sorted(tmp_path.glob("cells/*/*.json")), tmp_path / "shared" / "start.json"]):
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 1_000.0 * 2**number}))
    result = run(toy.recipe(), tmp_path)
    assert result["seconds"] == pytest.approx(31_000, abs=100)
    assert result["trials"] == 4
    assert len(toy.calls) == 4


def test_metrics_are_spreads_over_seeds_by_default(tmp_path):
    result = run(Toy().recipe(Protocol(num_steps=2)), tmp_path)
    end = result["metrics"]["cells"]["0.25"]["end"]
    half = 12.7062047 * np.sqrt(0.5 / 2)  # the quantile of Student's t with one degree of freedom
    assert end == {
        "mean": 0.5625,
        "sd": pytest.approx(np.sqrt(0.5), rel=1e-5),
        "interval": pytest.approx([0.5625 - half, 0.5625 + half], rel=1e-5),
        "values": [0.0625, 1.0625],
    }
    assert result["metrics"]["cells"]["0.5"]["never"]["mean"] is None
    assert "| 0.25 | 0.562 [0.0625, 1.06] | ∞ (2 of 2) |" in result["metrics"]["tables"][0]["markdown"]
    assert result["claims"][0]["value"] == 0.75
    assert result["claims"][0]["status"] == "holds"


def test_results_by_name_summaries_tables_and_pictures(tmp_path):
    def later(trial, **settings):
        if not settings:
            return {"end": trial.results["a/x"][0]["end"] + 1}
        return {"end": settings["start"]}

    recipe = Toy().recipe(
        cells=lambda protocol: {"a/x": {"start": 1.0, "num_seeds": 1}, "a/y": {}},
        measure=later,
        summarize=lambda results: {"rows": results.nested()},
        tables=lambda metrics: {"rows": [{"name": "x", "all": [one["end"] for one in metrics["rows"]["a"]["y"]]}]},
        pictures=lambda results, metrics: {"ends": recipes.lines({"toy": {"x": ([1, 2], [3, None])}}, log="xy")},
    )
    metrics = run(recipe, tmp_path)["metrics"]
    assert metrics["rows"] == {"a": {"x": [{"end": 1.0}], "y": [{"end": 2.0}] * 2}}
    assert metrics["tables"] == [{"title": "rows", "markdown": "| name | all |\n| --- | --- |\n| x | 2 |\n"}]
    assert (tmp_path / "ends.png").exists()


def test_missing_data_are_noted_and_tried_again(tmp_path):
    def measure(trial, rate):
        raise data.DataError("no such archive\nlook in /home/someone")

    result = run(Toy().recipe(measure=measure), tmp_path)
    assert result["metrics"]["cells"] == {"0.5": {}, "0.25": {}}
    assert result["claims"][0]["status"] == "not measured"
    toy = Toy()
    run(toy.recipe(), tmp_path)
    assert len(toy.calls) == 4


def test_paths_and_bounds():
    metrics = {"rows": {"a": [{"x": 1.0}, {"x": 2.0}], "b": [{"x": 3.0}]}, "none": {"a": None}}
    assert at("rows", "a", 1, "x")(metrics) == 2.0
    assert at("rows", ..., 0, "x")(metrics) == {"a": 1.0, "b": 3.0}
    assert at("rows", "a", ..., "x", by=max)(metrics) == 2.0
    assert at("rows", ..., 1, "x")(metrics) == {"a": 2.0}
    for path in (("rows", "c"), ("rows", "a", 7), ("rows", "a", 0, "x", "y"), ("none", "a")):
        assert at(*path, by=min)(metrics) is None
    assert recipes.difference(at("rows", "b", 0, "x"), at("rows", "a", 0, "x"))(metrics) == 2.0
    assert recipes.ratio(at("rows", ..., 0, "x"), at("rows", ..., 0, "x"))(metrics) == {"a": 1.0, "b": 1.0}
    assert recipes.values(at("rows", "a", 0, "x"), at("rows", "c"))(metrics) is None
    assert below(2)({"a": [1, 1.5]})
    assert not below(2)({"a": [1, None]})
    assert not below(2)([1, 2])
    assert recipes.between(1, 2)(2)
    assert not recipes.at_least(3)(2.9)
    assert not recipes.at_most(3)(3.1)
    assert not recipes.above(3)(3)
    assert not recipes.equal(1)([1, 2])
    assert recipes.increasing()([1, 2, None])
    assert not recipes.increasing()([1, 1])
    assert recipes.each(below(2), recipes.above(2))([1, 3])
    assert not recipes.each(below(2), recipes.above(2))([1, 2])
    assert recipes.each(x=below(2), y=recipes.equal(3))({"x": 1, "y": 3, "z": 9})
    assert not recipes.each(x=below(2), y=recipes.equal(3))({"x": 1, "y": 4})
    assert recipes.first_is_least(10)([1, 11, None])
    assert not recipes.first_is_least(10)([1, 10])
    assert not recipes.first_is_least()([None, 10])


def test_a_measured_function_is_a_value_by_its_other_arguments():
    @recipes.measured
    def times(metrics, name, factor=1):
        """By a factor."""
        return factor * metrics[name]

    assert times("x", factor=3)({"x": 2}) == 6
    assert times.__doc__ == "By a factor."
    claim = recipes.Claim("X", "statement", "1", times("y"), below(1), "none")
    assert claim.check({"x": 2})["status"] == "not measured"


def test_the_status_of_a_claim():
    claim = recipes.Claim("X", "statement", "1", at("x"), below(1), "The value of x.", open="5 of 200 epochs")
    assert [claim.check({"x": x})["status"] for x in (0, 1, None)] == ["holds", "open", "not measured"]
    assert claim.check({"x": 1}, "paper")["status"] == "does not hold"
    assert claim.check({"x": 1})["note"] == "The value of x; below 1. Open: 5 of 200 epochs."
    assert claim.check({"x": 0})["holds"] is True


def test_a_table_of_claims():
    rows = """
        A-1 | published | It falls,
            and rises. | 1 (table 2) | The last one

        B | control | It is 1. | none | The value | 3 of 10 epochs
    """
    first, second = recipes.claims(rows, {"A-1": (at("x"), below(1), 1), "B": (at("x"), recipes.equal(1), 2, True)})
    assert (first.id, first.statement, first.kind, first.open) == ("A-1", "It falls, and rises.", "published", None)
    assert (first.published, first.tolerance, first.fails, first.always) == ("1 (table 2)", "The last one", 1, None)
    assert (second.kind, second.open, second.always) == ("control", "3 of 10 epochs", True)
    for wrong, checks, message in (
        ("A | ours | x | y", {"A": (at("x"), below(1))}, "expected `id"),
        ("A | mine | x | y | z", {"A": (at("x"), below(1))}, "expected `id"),
        ("A | ours | x | y | z", {}, "no entry"),
        ("A | ours | x | y | z", {"A": (at("x"), below(1), 1), "B": (at("x"), below(1), 1)}, "2 entries for 1 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            recipes.claims(wrong, checks)


def test_rows_of_several_seeds(tmp_path):
    recipe = Toy().recipe(
        summarize=recipes.gather("rows", lambda seeds: [one["end"] for one in seeds]),
        tables=recipes.by_seed("Ends", "{:g}".format),
        pictures=recipes.over_seeds("ends", "end", float, log="y"),
    )
    metrics = run(recipe, tmp_path)["metrics"]
    assert metrics["rows"] == {"0.5": [0.125, 1.125], "0.25": [0.015625, 1.01562]}
    assert "| 0.5 | 0.125 | 1.125 |\n" in metrics["tables"][0]["markdown"]
    assert (tmp_path / "ends.png").exists()
    once = run(Toy().recipe(summarize=recipes.gather("rows", recipes.first)), tmp_path / "once")
    assert once["metrics"]["rows"]["0.5"]["end"] == 0.125


def test_a_run_in_parts_goes_on_where_the_part_before_ended(key):
    problem, optimizer = problems.Rosenbrock(), optimizers.adam(0.01)
    whole = solve(problem, optimizer, num_steps=6, key=key, players=(jnp.zeros(2),))
    parts = list(in_parts(problem, optimizer, 6, 3, key, players=(jnp.zeros(2),), record_every=1))
    np.testing.assert_array_equal(np.concatenate([part.losses for part in parts]), whole.losses)
    np.testing.assert_array_equal(parts[-1].players[0], whole.players[0])
    far = list(in_parts(problem, optimizers.sgd(1e200), 4, 2, key, players=(jnp.ones(2) * 3,)))
    assert [bool(part.result == RESULTS.successful) for part in far] == [False, False]


def test_values_for_files():
    assert plain({"a": (np.float32(0.1), np.arange(2), np.bool_(True), np.nan)}) == {"a": [0.1, [0, 1], True, None]}
    assert plain(1 / 3, 3) == 0.333


def test_heat_maps_of_several_panels(tmp_path):
    figure = recipes.heat_maps({"a": {"0.1": {"0": 1.0, "1": None}}, "b": {"0.1": {"0": 2.0, "1": 3.0}}}, ("x", "y"))
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"]
    assert figure.axes[0].images[0].get_clim() == (1.0, 3.0)
