"""The trained optimizers that come with the package: they load, learn, and their cards are true of them."""

import dataclasses
import json
import pathlib

import equinox as eqx
import jax
import numpy as np
import pytest

import nestax as nx
from nestax.recipes import _zoo
from nestax.recipes._zoo import _entry, _games, _minimization

FOLDER = pathlib.Path(nx.learned.__file__).parent / "zoo"


def test_the_folder_holds_exactly_what_is_listed():
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {f"{name}{suffix}" for name in nx.learned.PRETRAINED for suffix in (".safetensors", ".json")}
    assert set(nx.learned.PRETRAINED) == set(_zoo.SHIPPED)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 450_000


@pytest.mark.parametrize("name", nx.learned.PRETRAINED)
def test_a_card_is_that_of_its_weights(name):
    card, optimizer = nx.learned.card(name), nx.learned.pretrained(name)
    assert card["name"] == name
    assert set(card["arguments"]) == set(optimizer.config())
    assert card["fails"]
    assert card["licence"] == "Apache-2.0"
    entry = _zoo.SHIPPED[name]
    assert (card["summary"], card["fails"]) == (entry.summary, list(entry.fails))
    assert card["training"]["schedule"] == json.loads(json.dumps(entry.told()["schedule"]))
    scores = {seed: value["score"] for seed, value in card["seeds"].items()}
    assert min(scores, key=lambda seed: scores[seed]) == str(card["chosen"])
    assert set(card["evaluations"]) == set(entry.shown_on)
    assert all(_zoo.FAMILIES.get(p) is None or "adapted by 5 updates" in e for p, e in card["evaluations"].items())
    preset = nx.learned.preset(card["preset"], key=jax.random.key(0)).config()
    fixed = {k: v for k, v in preset.items() if v is not None and not isinstance(v, float)}
    assert fixed.items() <= card["arguments"].items()
    for key, value in preset.items():
        assert not isinstance(value, float) or card["arguments"][key] == pytest.approx(value)


@pytest.mark.training
def test_the_default_learns_at_once():
    """On its own training problem the loss falls at once, far below the plateau at ln 10 of a training that failed."""
    problem = nx.catalogue.by_name("digits-mlp")
    solution = nx.solve(problem, nx.learned.pretrained(), num_steps=100, key=jax.random.key(2))
    ln = np.log(np.asarray(solution.losses[-20:, 0]).mean())
    assert ln < 0.8 < np.log(np.asarray(solution.losses[0, 0]))


@pytest.mark.training
def test_one_of_a_family_learns_at_once():
    """As it is, and as adapted to a draw, the loss of which both bring down from that near zero, 1.67."""
    problem = nx.problems.uniform_lasso(jax.random.key(5))
    trained = nx.learned.pretrained("m-l2o-lasso")
    adaptation = nx.meta.adapt(trained, problem, key=jax.random.key(6))
    assert adaptation.num_steps == 5
    for optimizer in (trained, adaptation.optimizer):
        losses = np.asarray(nx.solve(problem, optimizer, num_steps=100, key=jax.random.key(7)).losses[:, 0])
        assert losses[0] > 1.5
        assert losses[-20:].mean() < 0.9


@pytest.mark.training
def test_a_family_is_looked_at_on_draws_of_its_own(monkeypatch):
    """The curves are those of `solve` on the draws, without and with adaptation to them, and there is no accuracy."""
    family = nx.FromSampler(nx.problems.uniform_lasso, num_instances=3, rows=2, dim=2)
    monkeypatch.setitem(_zoo.FAMILIES, "tiny", family)
    monkeypatch.setattr(_minimization, "_RATES", (0.01, 0.1))
    optimizer = nx.learned.preset("rnnprop-small", key=jax.random.key(0))
    entry = _zoo.Entry("s", ("f",), "rnnprop-small", ("tiny",), ((4, 1),), marks=(100,), rivals=("adam",), num_runs=2)
    entry = dataclasses.replace(entry, judged_at=(100,), adaptation_steps=1)
    rows = entry.evaluate(optimizer, "tiny", 3)
    learned, adapted, adam = rows.values()
    assert list(rows)[1] == "adapted by 1 updates"
    assert list(rows)[2] in ("adam 0.01", "adam 0.1")
    assert all("accuracy" not in row for row in (learned, adapted, adam))

    def by_hand(key, steps):
        found = []
        for each in jax.random.split(key, 2):
            draw, adapt, run = jax.random.split(each, 3)
            problem = family(draw)
            one = nx.meta.adapt(optimizer, problem, key=adapt, num_steps=steps).optimizer
            (x,) = problem.init(run)
            how = {"players": (x,), "state": one.init(problem, (x,), run)}
            losses = nx.solve(problem, one, num_steps=100, key=jax.random.fold_in(run, 0), **how).losses
            found.append(np.log(np.asarray(losses[-20:, 0], np.float64).mean()))
        return np.array(found)

    shown = _entry.key_of(3, _entry.EVALUATION)
    for row, steps in ((learned, 0), (adapted, 1)):
        found = by_hand(shown, steps)
        assert row["ln_loss"]["100"] == pytest.approx([found.mean(), found.min(), found.max()], abs=0.006)
    judged = by_hand(_entry.key_of(3, _entry.VALIDATION), 1).mean()
    assert entry.score(optimizer, 3) == pytest.approx(judged, rel=1e-4)


@pytest.mark.training
def test_the_one_for_games_solves_a_game():
    """Drawn from its training distribution, to float32's precision, from a start a good part of a unit away."""
    game = nx.problems.Seesaw.random(jax.random.key(8), **nx.catalogue.SEESAW_RANGES[7])
    solution = nx.solve(game, nx.learned.pretrained("twin"), num_steps=300, key=jax.random.key(9))
    before, after = (np.hypot(*game.distances(players)) for players in (game.init(jax.random.key(9)), solution.players))
    assert after < 1e-4 < before


@pytest.mark.training
def test_games_are_compared_after_as_many_gradients(monkeypatch):
    """Of which the learned optimizer takes two a step, and GDA one."""
    monkeypatch.setattr(
        _games, "CLASSICAL_FOR_GAMES", {"gda": nx.evaluation.Tunable(nx.optimizers.sgd, {"learning_rate": (0.1, 1e30)})}
    )
    (name, family) = ("RotatedSaddle.random", _zoo.GAMES["RotatedSaddle.random"])
    entry = _zoo.GameEntry("s", ("f",), "twin", (name,), (name,), (4, 8), ("gda",), num_games=3, num_starts=2)
    optimizer = nx.learned.preset("twin", key=jax.random.key(0))
    rows = entry.evaluate(optimizer, name, 3)
    assert list(rows) == ["learned", "gda 0.1"]

    def runs(one, purpose):
        draw, run = jax.random.split(_entry.key_of(3, purpose))
        games = jax.vmap(family)(jax.random.split(draw, 3))
        return nx.evaluation.run_games(games, one, num_steps=8, key=run, num_starts=2).joint

    for row, one, each in ((rows["learned"], optimizer, 2), (rows["gda 0.1"], nx.optimizers.sgd(0.1), 1)):
        found = runs(one, _entry.EVALUATION)
        assert row["gradients_per_step"] == each
        for mark in (4, 8):
            expected = np.percentile(found[..., mark // each], [50, 90])
            assert row["distance"][str(mark)] == pytest.approx(expected, rel=0.06)  # two digits
        assert row["solved"] == 0.0
    ends = np.log(runs(optimizer, _entry.VALIDATION)[..., 3:5].mean(axis=-1))  # the last fifth of four steps
    assert entry.score(optimizer, 3) == pytest.approx(ends.mean(), rel=1e-6)


def test_the_names_of_games_are_the_calls_that_draw_from_them(key):
    for name, family in _zoo.GAMES.items():
        kind, _, number = name.removesuffix("])").partition(".random(**SEESAW_RANGES[")
        arguments = nx.catalogue.SEESAW_RANGES[int(number)] if number else {}
        make = getattr(nx.problems, kind.removesuffix(".random")).random
        assert eqx.tree_equal(family(key), make(key, **arguments), rtol=1e-6)


def test_the_names_of_families_are_the_calls_that_draw_from_them():
    for name, family in _zoo.FAMILIES.items():
        assert isinstance(family, nx.FromSampler)
        if name == "RosenbrockBatch":
            assert isinstance(family(jax.random.key(0)), nx.problems.RosenbrockBatch)
        else:
            arguments = ", ".join(f"{k}={v:g}" for k, v in family.static)
            assert name == family.make.__name__ + (f"({arguments})" if arguments else "")


@pytest.mark.parametrize("ask", [nx.learned.pretrained, nx.learned.card])
def test_an_unknown_name(ask):
    with pytest.raises(ValueError, match=r"Unknown trained optimizer 'rnnprop-smal'. Did you mean 'rnnprop-small'\?"):
        ask("rnnprop-smal")


@pytest.mark.training
def test_making_one_keeps_the_best_seed_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(_zoo.Entry, "score", lambda entry, optimizer, seed: float(optimizer.network.readout_weight[0]))
    monkeypatch.setattr(_zoo.Entry, "evaluate", lambda entry, optimizer, name, seed: {})
    tiny = _zoo.Entry("s", ("f",), "rnnprop-small", ("quadratic",), ((4, 1),), unroll=2, num_seeds=2, shown_on=("x",))
    card = _zoo.make_pretrained("tiny", tmp_path, 3, {"tiny": tiny})
    assert list(card["seeds"]) == ["3", "4"]
    assert card["chosen"] == min((3, 4), key=lambda s: card["seeds"][str(s)]["score"])
    weights = nx.learned.load(tmp_path / "tiny.safetensors")
    trained = [nx.learned.load(tmp_path / "runs" / f"tiny-{s}" / "optimizer.safetensors") for s in (3, 4)]
    same = [bool((t.network.readout_weight == weights.network.readout_weight).all()) for t in trained]
    assert same == [s == card["chosen"] for s in (3, 4)]
    monkeypatch.setattr(nx.meta._train._Epochs, "advance", lambda *args: 1 / 0)  # finished runs are not trained again
    assert _zoo.make_pretrained("tiny", tmp_path, 3, {"tiny": tiny})["seeds"] == card["seeds"]
    with pytest.raises(ValueError, match="Did you mean 'tiny'"):
        _zoo.make_pretrained("tiyn", tmp_path, 3, {"tiny": tiny})


def test_the_page_is_up_to_date():
    import importlib.util

    path = pathlib.Path(__file__).parents[2] / "docs" / "generate_zoo.py"
    spec = importlib.util.spec_from_file_location("generate_zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0


def test_the_best_of_the_judged_phases_is_kept(monkeypatch):
    """By the score of the optimizer as it would be shipped, with its decay; the next phase goes on from it."""
    entry = dataclasses.replace(_zoo.STRONGER["mixed-momentum"], judged_phases=2)  # of four
    scales, judged, target = [], [], {}

    def go_on(self, optimizer, seed, run):
        """In place of a training: the step length is half of the last one."""
        scales.append(float(optimizer.scale))
        trained = eqx.tree_at(lambda o: o.scale, optimizer, optimizer.scale / 2)
        return nx.meta.MetaTraining(trained, trained, [{"horizon": 10}], 1, nx.RESULTS.successful, "")

    def score(self, optimizer, seed):
        judged.append(float(optimizer.decay_after))
        return abs(float(optimizer.scale) - target["scale"])

    monkeypatch.setattr(_zoo.Entry, "_go_on", go_on)
    monkeypatch.setattr(_zoo.Entry, "score", score)
    for best, kept in ((0.01 / 8, 0.01 / 8), (0.0, 0.01 / 16)):
        target["scale"] = best
        training = entry.train(0)
        assert float(training.optimizer.scale) == pytest.approx(kept)
        assert float(training.optimizer.decay_after) == entry.decay_after
        assert (len(training.history), training.num_skipped) == (4, 4)
    np.testing.assert_allclose(scales, 2 * [0.01, 0.01 / 2, 0.01 / 4, 0.01 / 8], rtol=1e-6)
    assert judged == 4 * [entry.decay_after]
