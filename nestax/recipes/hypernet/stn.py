"""Self-tuning networks: dropout and weight decay tuned in one training, against search and implicit differentiation."""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import catalogue, data, hyper, hyperparameters, networks, optimizers, problems
from .. import (
    Metrics,
    Recipe,
    Results,
    Trial,
    Value,
    above,
    at,
    between,
    claims,
    difference,
    each,
    equal,
    histories,
    values,
)
from ..hyper._common import draw, load

METHODS: dict[str, tuple[hyper.AbstractMethod, int]] = {
    "fixed": (hyper.Direct(), 20),
    "STN": (hyper.SelfTuning(hyper.Perturbed()), 2),
    "Delta-STN": (hyper.SelfTuning(hyper.Linearized()), 5),
    "implicit": (hyper.Implicit(hyper.Neumann(5), residual=False), 5),
}
"""Methods of `tune`, and inner steps per outer step: 2 and 5 as published for both forms."""

SEARCHES = ("random search", "grid search")
FEWER = {"ptb": ("fixed", "STN", "Delta-STN"), "cifar10": ("STN", "Delta-STN", "random search")}
"""Data sets on which not all methods run."""

FASHION, CIFAR, TEXT = "fashion_mnist", "cifar10", "ptb"
LONG = f"{FASHION}, four times as long"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the comparison is made."""

    budget: int  # per method, in gradients of a plain training step's time
    num_train: int = 1_000
    num_valid: int = 1_000
    num_test: int = 2_000
    seeds: tuple[tuple[str, int], ...] = ((FASHION, 3), (TEXT, 1), (CIFAR, 1))
    methods: tuple[str, ...] = (*METHODS, *SEARCHES, "cost")
    channels: tuple[int, ...] = (8, 16)
    hidden: int = 32
    words: int = 500  # of the Penn Treebank; all others become <unk>. 10,000 as published
    width: int = 48  # of its LSTM with 2 layers; 650 as published
    text_steps: int = 400  # gradients; 70 epochs or so as published
    records: int = 5
    batch_size: int = 100  # as published, 128
    learning_rate: float = 0.01  # SGD with momentum 0.9; as published
    outer_learning_rate: float = 0.03  # Adam, as published 0.003 for ten times as many steps and more
    rate: float = 0.05  # of all dropout at the start; as published
    decay: float = -8.0  # logarithm, at the start
    num_trials: int = 9  # of a search: 3 × 3 in the grid
    low: tuple[float, float] = (-4.0, -11.0)  # of dropout logits and decay, in searches
    high: tuple[float, float] = (1.0, -3.0)
    rounds: int = 2  # of the measurement of costs
    # gradients per outer step, as the cell "cost" measures them: all methods get the same time
    costs: tuple[tuple[str, float], ...] = (("fixed", 20.0), ("STN", 4.2), ("Delta-STN", 14.0), ("implicit", 14.5))


class _Judge(eqx.Module):
    """Losses on all validation and test data; a module, so that the data are no constants of the compiled program."""

    problem: problems.NestedClassifier
    test: data.Dataset

    def __call__(self, players):
        problem, weights = self.problem, players[1]
        return {
            "valid": problem.full_loss(weights, problem.valid),
            "test": problem.full_loss(weights, self.test),
            "accuracy": problem.accuracy(weights, self.test),
        }


class _Perplexity(eqx.Module):
    problem: problems.NestedLanguageModel
    test: data.Corpus

    def __call__(self, players):
        texts = {"valid": self.problem.valid, "test": self.test}
        return {name: self.problem.perplexity(players[1], text) for name, text in texts.items()}


def images(trial: Trial, dataset: str) -> tuple[problems.NestedClassifier, _Judge]:
    """A small convolutional network on few images: dropout before its dense layers, and one weight decay."""
    p: Protocol = trial.protocol
    train, valid = draw(load(dataset, "train"), (p.num_train, p.num_valid), trial.seed)
    drops = [hyperparameters.Dropout(f"layer{len(p.channels) + i}", rate=p.rate) for i in range(2)]
    family = hyperparameters.Compose(*drops, hyperparameters.WeightDecay("all", p.decay))
    network = networks.ConvNet(p.channels, hidden=(p.hidden,))
    problem = problems.NestedClassifier(train, valid, network, family, p.batch_size, p.batch_size)
    return problem, _Judge(problem, load(dataset, "test", p.num_test))


def measure(trial: Trial, dataset: str, method: str, times: int = 1) -> dict[str, Any]:
    """The lowest validation loss of all records, and the test loss there, for so many times the budget."""
    p: Protocol = trial.protocol
    if dataset == TEXT:
        return text(trial, method)
    problem, judge = images(trial, dataset)
    if method == "cost":
        return cost(trial, problem)
    if method not in SEARCHES:
        return _result(_tuned(trial, problem, judge, method, times * p.budget))
    sizes = (2, 1)  # dropout rates, decays
    if method == "grid search":  # all dropout alike
        ends = [np.linspace(low, high, round(p.num_trials**0.5)) for low, high in zip(p.low, p.high)]
        points = [[[a] * sizes[0], [b]] for a in ends[0] for b in ends[1]]
    else:
        rng = np.random.default_rng(trial.seed)
        points = [[rng.uniform(a, b, n) for a, b, n in zip(p.low, p.high, sizes)] for _ in range(p.num_trials)]
    weights = problem.init(trial.key)[1]
    runs = []
    for drops, decay in points:
        at_start = tuple(jnp.asarray(x, jnp.float32) for x in (*drops, *decay))
        share = p.budget // p.num_trials
        runs.append(_result(_tuned(trial, problem, judge, "fixed", share, players=(at_start, weights))))
    return min(runs, key=lambda run: run["valid"])


def _tuned(trial: Trial, problem: Any, judge: Any, method: str, budget: int, **how: Any) -> hyper.Tuning:
    """One training of so many gradients; as warm-up, the first tenth leaves hyperparameters alone."""
    p: Protocol = trial.protocol
    how_to, inner_steps = METHODS[method]
    per_record = max(1, round(budget / dict(p.costs)[method] / p.records))
    rate = optax.linear_schedule(0.0, p.outer_learning_rate, 1, per_record * p.records // 10)
    language = isinstance(problem, problems.NestedLanguageModel)
    inner = (
        optax.chain(optax.clip_by_global_norm(0.25), optax.sgd(3.0)) if language else optax.sgd(p.learning_rate, 0.9)
    )
    return hyper.tune(
        problem,
        method=how_to,
        optimizer=inner,
        outer_optimizer=optimizers.sgd(0.0) if method == "fixed" else optax.adam(rate),
        num_outer_steps=per_record * p.records,
        num_inner_steps=inner_steps,
        record_every=per_record,
        evaluate=judge,
        criterion="valid",
        key=trial.key,
        **how,
    )


def _result(tuning: hyper.Tuning) -> dict[str, Any]:
    best = min(tuning.history, key=lambda record: record["valid"])
    chosen = [float(x) for x in jax.tree.leaves(tuning.players[0])]
    kinds = [kind for kind in ("valid", "test", "accuracy") if kind in best]
    return {
        **{kind: best[kind] for kind in kinds},
        "hyperparameters": [round(x, 3) for x in chosen],
        "history": [{"step": record["step"], "valid": record["valid"]} for record in tuning.history],
    }


def cost(trial: Trial, problem: problems.NestedClassifier) -> dict[str, Any]:
    """Processor time of an outer step of every method in that of a plain training step, measured in turns."""
    p, states, seconds = trial.protocol, {}, {name: [] for name in METHODS}
    for _ in range(p.rounds + 1):  # the first compiles
        for name, (method, inner_steps) in METHODS.items():
            started, num = time.process_time(), 200 // inner_steps
            tuning = hyper.tune(
                problem,
                method=method,
                optimizer=optax.sgd(p.learning_rate, 0.9),
                outer_optimizer=optax.adam(p.outer_learning_rate),
                num_outer_steps=num,
                num_inner_steps=inner_steps,
                record_every=num,
                key=trial.key,
                state=states.get(name),
            )
            states[name] = tuning.state
            seconds[name].append((time.process_time() - started) / num)
    typical = {name: float(np.median(found[1:])) for name, found in seconds.items()}
    plain = typical["fixed"] / METHODS["fixed"][1]
    assumed = dict(p.costs)
    return {
        "seconds per gradient": plain,
        **{name: found / plain for name, found in typical.items()},
        **{f"{name}, over what is assumed": typical[name] / plain / assumed[name] for name in METHODS},
    }


def text(trial: Trial, method: str) -> dict[str, Any]:
    """The seven hyperparameters of a language model: lowest validation perplexity, and that on the test text."""
    p: Protocol = trial.protocol
    full = [data.penn_treebank(split) for split in ("train", "valid", "test")]
    words = full[0].most_frequent(p.words)
    train, valid, test = [one.in_words(words) for one in full]
    model = networks.LSTMLanguageModel(p.words, p.width)
    family = catalogue.lstm_regularization(model, rate=p.rate, alpha=0.05, beta=0.05)
    problem = problems.NestedLanguageModel(train, valid, model, family, 20, 20, 20)
    return {"words": p.words, **_result(_tuned(trial, problem, _Perplexity(problem, test), method, p.text_steps))}


def _lead(better: str, worse: str, dataset: str = FASHION, kind: str = "valid") -> Value:
    """Per seed, how far one loss is below another."""
    return difference(*[at("cells", f"{dataset} {name}", kind, "values") for name in (worse, better)], digits=4)


def _cells(p: Protocol) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for dataset, num in p.seeds:
        for name in p.methods:
            if name not in FEWER.get(dataset, p.methods):
                continue
            cells[f"{dataset} {name}"] = {"dataset": dataset, "method": name, "num_seeds": 1 if name == "cost" else num}
    for name in [name for name in METHODS if name in p.methods and name != "fixed" and p.seeds[0][0] == FASHION]:
        cells[f"{LONG} {name}"] = {"dataset": FASHION, "method": name, "times": 4, "num_seeds": 2}
    return cells


def _smaller_lead(metrics: Metrics) -> float | None:
    """The smaller lead of both forms on CIFAR-10."""
    leads = [_lead(form, "random search", CIFAR)(metrics) for form in ("STN", "Delta-STN")]
    return None if None in leads else min(min(lead) for lead in leads)


def tables(metrics: Metrics) -> dict[str, Any]:
    kinds = ("valid", "test", "accuracy")
    rows = {n: {k: row[k] for k in kinds if k in row} for n, row in metrics["cells"].items() if "valid" in row}
    return {"Where the validation loss (for ptb: perplexity) is lowest, mean over seeds [min, max]": rows}


def _images_only(results: Results) -> Results:
    """Validation losses, and neither costs nor perplexities."""
    out = Results(results.protocol, results.cells, results.seed)
    for name, seeds in results.items():
        for one in seeds if "accuracy" in seeds[0] else ():
            out.add(name, one)
    return out


LEAD = "By how much its validation loss is below, per seed, at equal time"
SMALL = "small networks on 1,000 images, minutes in the place of hours"
CLAIMS = claims(
    f"""
    S1 | published | At equal time Delta-STN reaches a lower validation loss than random search. | it does, on CIFAR-10
        and Fashion-MNIST (Bae and Grosse 2020) | {LEAD} | {SMALL}
    S2 | published | So it does against a grid. | it does (MacKay et al. 2019; Bae and Grosse 2020) | {LEAD} | {SMALL}
    S3 | published | STN does so, too, against random search. | it does (MacKay et al. 2019) | {LEAD} | {SMALL}
    S4 | published | Delta-STN is better than STN. | it is more accurate, faster and more stable (Bae and Grosse 2020)
        | {LEAD} | {SMALL}
    S5 | ours | At equal time Delta-STN is better than implicit differentiation with five terms of a Neumann series.
        | not stated | {LEAD}
    S6 | control | Delta-STN is better than the same training with hyperparameters that stay where they start.
        | not stated | {LEAD}
    S7 | control | The time of an outer step in plain training steps is what equal time was computed with. | none
        | Ratios of measured to assumed costs of STN, Delta-STN and implicit differentiation
    S8 | published | On CIFAR-10 Delta-STN and STN reach a lower validation loss than random search.
        | they do (MacKay et al. 2019; Bae and Grosse 2020), with AlexNet, VGG16 and ResNet18 | The smaller lead of both
        forms, for one seed | {SMALL}
    S9 | published | An STN reaches 70.30 and 67.68 as validation and test perplexity on the Penn Treebank.
        | 70.30 and 67.68 (MacKay et al. 2019) | Validation perplexity among all 10,000 words | an LSTM of width 48 on
        the 500 most frequent words, where perplexities are others, for less than one reading of the text
    S10 | ours | On that small language model tuning by STN or by Delta-STN does better than the initial
        hyperparameters, at equal time. | not stated | Validation perplexity, fixed minus tuned, for both
    S11 | published | With four times the time, Delta-STN is better than STN. | it is more accurate, faster and more
        stable (Bae and Grosse 2020) | {LEAD} | {SMALL}
    """,
    {
        "S1": (_lead("Delta-STN", "random search"), above(0), [0.1, -0.1]),
        "S2": (_lead("Delta-STN", "grid search"), above(0), [0.1, -0.1]),
        "S3": (_lead("STN", "random search"), above(0), [0.1, -0.1]),
        "S4": (_lead("Delta-STN", "STN"), above(0), [0.1, -0.1]),
        "S5": (_lead("Delta-STN", "implicit"), above(0), [0.1, -0.1]),
        "S6": (_lead("Delta-STN", "fixed"), above(0), [0.1, -0.1]),
        "S7": (
            values(*[at("cells", f"{FASHION} cost", f"{name}, over what is assumed", "mean") for name in METHODS]),
            between(0.7, 1.4),
            [1.0, 2.0],
        ),
        "S8": (_smaller_lead, above(0), -0.1),
        "S9": (
            values(at("cells", f"{TEXT} STN", "words", "mean"), at("cells", f"{TEXT} STN", "valid", "mean")),
            each(equal(10_000), between(65, 76)),
            [
                500,
                70.3,
            ],
        ),
        "S11": (_lead("Delta-STN", "STN", LONG), above(0), [0.1, -0.1]),
        "S10": (values(*[_lead(name, "fixed", TEXT) for name in FEWER[TEXT][1:]]), above(0), [[1.0], [-1.0]]),
    },
)

RECIPE = Recipe(
    name="hypernet/stn",
    title="Self-tuning networks against search and implicit differentiation at equal time",
    source="MacKay et al. 2019, table 2 and figure 4; Bae and Grosse 2020, section 5",
    scales={
        "smoke": Protocol(40, 40, 40, 40, (("digits", 1),), ("Delta-STN",), (4,), 8, records=2, num_trials=1, rounds=1),
        "laptop": Protocol(2_000),
        "paper": Protocol(
            1_000_000,
            40_000,
            10_000,
            channels=(64, 192, 384),
            hidden=4_096,
            words=10_000,
            width=650,
            text_steps=200_000,
            batch_size=128,
            outer_learning_rate=0.003,
        ),
    },
    axes=("seeds", "methods"),
    cells=_cells,
    measure=measure,
    tables=tables,
    pictures=lambda results, _: {"stn": histories(_images_only(results), "valid")},
    claims=CLAIMS,
)
