"""A language model: its regularization tuned while it trains, and its weight decays tuned until it overfits."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import catalogue, data, hyperparameters, networks, optimizers, problems
from .. import Metrics, Recipe, Trial, Value, above, at, below, claims, difference, histories, increasing, ratio, values
from ._common import rmsprop, tuned

TABLE = ("seven, at their initial values", "seven, tuned", "one per unit and recurrent weight, tuned")
FIXED, SEVEN, MANY = TABLE
FIGURE = ("few sequences, decays tuned", "few sequences, decays fixed")
TUNED, KEPT = FIGURE


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the table and the figure are reproduced."""

    vocabulary: int  # words; all others become <unk>. 10,000 as published
    width: int  # 650 as published
    length: int  # words per window; 70 as published
    batch_size: int  # windows; 40 as published
    num_steps: int  # of the weights, and as many of the hyperparameters; as published
    num_parts: int  # looks at the perplexity
    num_seeds: int
    overfit_sequences: int  # for training, and as many for validation; 10 as published
    overfit_steps: int  # outer steps
    overfit_width: int
    methods: tuple[str, ...] = (*TABLE, *FIGURE)
    synthetic: bool = False  # made text in the place of the Penn Treebank
    num_layers: int = 2  # as published
    learning_rate: float = 30.0  # SGD; as published
    clip: float = 0.25  # of the gradient's norm; as published
    outer_learning_rate: float = 1e-3  # Adam; as published
    rate: float = 0.5  # of all dropout at the start; as published
    overfit_inner_steps: int = 5  # Adam
    overfit_learning_rate: float = 1e-3
    overfit_outer_learning_rate: float = 1e-2  # RMSprop
    overfit_initial: float = -9.0  # logarithm of every decay
    num_test: int = 82_430  # words


def texts(protocol: Protocol) -> list[data.Corpus]:
    """Text for training, validation and test, in the most frequent words of the first."""
    if protocol.synthetic:
        rng = np.random.default_rng(0)
        order = rng.permutation(protocol.vocabulary)
        walk = np.cumsum(rng.integers(0, 2, 3_000)) % protocol.vocabulary  # every word has two successors
        tokens = jnp.asarray(order[walk].astype(np.int32))
        names = tuple(f"word{i}" for i in range(protocol.vocabulary))
        return [data.Corpus(part, names, "made") for part in (tokens[:2_000], tokens[2_000:2_500], tokens[2_500:])]
    full = [data.penn_treebank(split) for split in ("train", "valid", "test")]
    words = full[0].most_frequent(protocol.vocabulary)
    return [text.in_words(words) for text in full]


def measure(trial: Trial, method: str) -> dict[str, Any]:
    """One training: perplexities on the way, and where that on the validation text is lowest; or `overfit`."""
    if method in FIGURE:
        return overfit(trial, method)
    p: Protocol = trial.protocol
    train, valid, test = texts(p)
    model = networks.LSTMLanguageModel(p.vocabulary, p.width, p.num_layers)
    family = catalogue.lstm_regularization(model, many=method == MANY, rate=p.rate)
    problem = problems.NestedLanguageModel(train, valid, model, family, p.length, p.batch_size, p.batch_size)
    outer = optimizers.sgd(0.0) if method == FIXED else optimizers.adam(p.outer_learning_rate)
    inner = optax.chain(optax.clip_by_global_norm(p.clip), optax.sgd(p.learning_rate))
    judge = _Perplexity(problem, test.take(slice(p.num_test)))
    tuning = tuned(trial, problem, (outer, inner), (p.num_steps, 1), parts=p.num_parts, evaluate=judge)
    history = [{kind: record[kind] for kind in ("step", "valid", "test")} for record in tuning.history]
    lowest = min(history, key=lambda record: record["valid"])
    return {
        "hyperparameters": 0 if method == FIXED else optax.tree.size(tuning.players[0]),
        "valid": lowest["valid"],
        "test": lowest["test"],
        **_rates(tuning.players[0], method),
        "history": history,
    }


class _Perplexity(eqx.Module):
    """Perplexities; a module and not a function, so that the text is no constant of the compiled program."""

    problem: problems.NestedLanguageModel
    test: data.Corpus

    def __call__(self, players):
        texts = {"valid": self.problem.valid, "test": self.test}
        return {name: self.problem.perplexity(players[1], text) for name, text in texts.items()}


def _rates(chosen: Any, method: str) -> dict[str, float]:
    """The dropout rates, means over units where there are many."""
    logits = chosen if method == MANY else chosen[1:-1]
    names = ("embedding", "input", *["hidden"] * (len(logits) == 5), "output", "recurrent")
    rates = {name: float(jnp.mean(jax.nn.sigmoid(logit))) for name, logit in zip(names, logits)}
    if method == MANY:
        return rates
    return {**rates, "beta": float(jax.nn.softplus(chosen[0])), "alpha": float(jax.nn.softplus(chosen[-1]))}


def overfit(trial: Trial, method: str) -> dict[str, Any]:
    """One decay per weight, a few sequences, full batches: validation loss per word on the way."""
    p: Protocol = trial.protocol
    num, rng = p.overfit_sequences * p.length + 1, np.random.default_rng(trial.seed)

    def piece(whole: data.Corpus) -> data.Corpus:
        start = int(rng.integers(0, len(whole) - num))
        return whole.take(slice(start, start + num))

    train, valid = map(piece, texts(p)[:2])
    model = networks.LSTMLanguageModel(p.vocabulary, p.overfit_width, p.num_layers)
    family = hyperparameters.WeightDecay("weight", p.overfit_initial)
    problem = problems.NestedLanguageModel(train, valid, model, family, p.length, None, None)
    both = rmsprop(0.0 if method == KEPT else p.overfit_outer_learning_rate), optimizers.adam(p.overfit_learning_rate)
    tuning = tuned(trial, problem, both, (p.overfit_steps, p.overfit_inner_steps), parts=p.num_parts)
    return {
        "hyperparameters": optax.tree.size(tuning.players[0]),
        "loss per word": tuning.history[-1]["outer_loss"],  # mean over the last part of the run
        "history": [{"step": r["step"], "valid": r["outer_loss"]} for r in tuning.history],
    }


PERPLEXITY = (
    "Perplexity where that on the validation text is lowest, mean over seeds [min, max]; at the end rates of dropout "
    "(means over units) and weights of activation regularization"
)


def tables(metrics: Metrics) -> dict[str, Any]:
    parts = {PERPLEXITY: TABLE, "Validation loss per word of a few sequences": FIGURE}
    return {title: {n: row for n, row in metrics["cells"].items() if n in names} for title, names in parts.items()}


def _lead(better: str, worse: str) -> Value:
    """Per seed, how far one validation perplexity is below another."""
    return difference(*[at("cells", name, "valid", "values") for name in (worse, better)], digits=2)


TEST = [at("cells", name, "test", "mean", digits=2) for name in (MANY, SEVEN, FIXED)]
LOSSES = [at("cells", name, "loss per word", "mean") for name in (KEPT, TUNED)]
LEAD = "By how much its validation perplexity is below the other, per seed"
BUDGET = "1,000 of 132,800 steps, less than one reading of the text"
CLAIMS = claims(
    f"""
    P1 | published | Tuning the seven hyperparameters while the weights train is better than leaving them where they
        start. | validation perplexity 69.22 against 75.72 (table 3.4) | {LEAD} | {BUDGET}
    P2 | published | Tuning a rate for every unit and every recurrent weight is better still. | 68.18 against 69.22
        (table 3.4) | {LEAD} | {BUDGET}
    P3 | published | On the test text the order is the same: many, seven, none. | 66.14, 66.40, 71.91 (table 3.4)
        | Test perplexities of many, seven, none, means over seeds | {BUDGET}
    P4 | published | With one tuned decay per weight the validation loss of a few sequences falls to nearly zero.
        | about 0 (figure 3.8) | Loss per word over the last part of the run, where guessing has the logarithm of the
        number of words | 1,500 outer steps, where it falls by 22% per 300
    P5 | control | That is the decays' doing: with fixed ones the same training leaves it several times as high.
        | not stated | Ratio of both losses
    """,
    {
        "P1": (_lead(SEVEN, FIXED), above(0), [1.0, -1.0]),
        "P2": (_lead(MANY, SEVEN), above(0), [1.0, -1.0]),
        "P3": (values(*TEST), increasing(), [44.0, 42.0, 45.0]),
        "P4": (at("cells", TUNED, "loss per word", "mean", digits=3), below(0.1), 1.4),
        "P5": (ratio(*LOSSES, digits=2), above(2), 1.1),
    },
)

RECIPE = Recipe(
    name="hyper/lstm",
    title="Dropout and activation regularization of a language model, tuned while it trains",
    source="Lorraine 2024, figure 3.8 and table 3.4; Lorraine, Vicol, Duvenaud 2020, section 5.5",
    scales={
        "smoke": Protocol(6, 2, 4, 2, 1, 1, 1, 1, 1, 2, (SEVEN, TUNED), synthetic=True, num_layers=1, num_test=50),
        "laptop": Protocol(500, 48, 20, 20, 1_000, 5, 2, 10, 1_500, 48, learning_rate=3.0, outer_learning_rate=1e-2),
        "paper": Protocol(10_000, 650, 70, 40, 132_800, 400, 3, 10, 10_000, 650),
    },
    axes=("methods",),
    cells=lambda p: {name: {"method": name, "num_seeds": p.num_seeds if name in TABLE else 1} for name in p.methods},
    measure=measure,
    tables=tables,
    pictures=lambda results, _: {"lstm": histories(results, "valid")},
    claims=CLAIMS,
)
