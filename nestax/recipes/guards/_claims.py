"""What the publication on guarded learned optimizers claims, as predicates on the recipe's metrics."""

import math
from typing import Any

import numpy as np

from ...measures import no_worse
from .. import Metrics, above, at, at_most, below, claims, each, measured, values

GUARDED = ("lgl2o", "lgl2o-adaptive", "lgl2o-careful", "lgl2o-careful-own", "lgl2o-own", "lgl2o-both", "lgl2o-cifar")
"""Methods that L8 is asked of."""


def never_worse(rows: dict[str, Any]) -> dict[str, Any]:
    """By method and row `[share, null]`: how often a guard is no worse than the better constituent, up to two standard
    errors, and how often a second run of SGDnm is no worse than the first one, which only noise decides.

    Pairs are runs of one seed at one mark; `all` is the mean over all pairs.
    """
    out: dict[str, Any] = {}
    for method in GUARDED:
        found = {}
        rivals = ("l2o-cifar" if method.endswith("-cifar") else "l2o", "sgdnm")
        for name, results in rows.items():
            if all(results.get(one) for one in (method, *rivals, "sgdnm-again")):
                pairs = (method, rivals), ("sgdnm-again", ("sgdnm",))
                found[name] = [no_worse(_at_marks(results, a)[0], _at_marks(results, *b)).ravel() for a, b in pairs]
        if found:
            out[method] = {name: [flags.mean() for flags in both] for name, both in found.items()}
            out[method]["all"] = [np.concatenate(flags).mean() for flags in zip(*found.values())]
    return out


def _at_marks(results: dict[str, Any], *names: str) -> list[Any]:
    return [tuple(np.array(list(results[n][of].values()), float) for of in ("loss", "error")) for n in names]


def _ln(metrics: Metrics, row: str, method: str, mark: int = -1) -> float:
    """Mean over seeds of ln loss at a mark, by default the last; infinite if a run failed."""
    losses = list(metrics["rows"][row][method]["loss"].values())[mark]
    return math.inf if None in losses else float(np.log(np.maximum(losses, 1e-30)).mean())


def _minus(a: float, b: float) -> float:
    """`a - b`, at most 99 in size, since results are JSON."""
    return 0.0 if math.isinf(a) and math.isinf(b) else round(max(-99.0, min(99.0, a - b)), 4)


@measured
def _against(metrics: Metrics, row: str, a: str, *others: str, mark: int = -1) -> float:
    """ln loss of method `a` minus the lowest one of others."""
    return _minus(_ln(metrics, row, a, mark), min(_ln(metrics, row, b, mark) for b in others))


@measured
def _rise(metrics: Metrics, row: str, method: str) -> float:
    """ln loss at the end minus the lowest at any mark: how much of what was gained is lost again."""
    num = len(metrics["rows"][row][method]["loss"])
    return _minus(_ln(metrics, row, method), min(_ln(metrics, row, method, mark) for mark in range(num)))


@measured
def _rises(metrics: Metrics, method: str) -> dict[str, float] | None:
    """The rise on every row."""
    return {row: _rise(row, method)(metrics) for row, found in metrics["rows"].items() if found.get(method)} or None


@measured
def _peak(metrics: Metrics, method: str, over: str) -> float:
    """The ratio of two late peaks on circles, medians over seeds."""
    ours, theirs = (np.median(metrics["rows"]["circles-mlp"][name]["peak"]) for name in (method, over))
    return round(float(ours / theirs), 4)


@measured
def _cost(metrics: Metrics, method: str, over: str) -> float:
    """The ratio of evaluations per update on circles."""
    found = [metrics["rows"]["circles-mlp"][name] for name in (method, over)]
    ours, theirs = (np.mean(one["gradients"]) + np.mean(one["losses"]) for one in found)
    return round(float(ours / theirs), 4)


FAST = "qualitative (figure 2)"
FAR = "qualitative (figures 5 and 8)"
CONV = "\n".join(
    f"""
L5{letter}-l2o | published | {name}: the learned optimizer diverges. | {FAR} | Its ln loss at the end minus its lowest
    (99: not finite) | 200 of up to 1,000,000 updates
L5{letter}-gl2o | published | {name}: GL2O diverges or stalls far above SGDnm. | {FAR} | ln loss of GL2O minus that of
    SGDnm at the end | 200 of up to 1,000,000 updates
L5{letter}-lgl2o | published | {name}: LGL2O tracks SGDnm. | {FAR} | ln loss of LGL2O minus that of SGDnm at the end
    | one meta-seed, 2 seeds, 200 updates
"""
    for letter, name in (("a", "Conv on MNIST"), ("b", "Conv on CIFAR-10"))
)
CLAIMS = claims(
    f"""
L1-early | published | MLP on MNIST: the unguarded learned optimizer is the fastest at first. | {FAST}
    | ln loss of L2O minus the lowest one of SGDnm, Adam and GL2O after 100 updates
L1-diverges | published | MLP on MNIST: the unguarded learned optimizer later diverges. | {FAST}
    | Its ln loss at the end minus its lowest at any mark | 5,000 of 1,000,000 updates
L1-follows | published | MLP on MNIST: LGL2O follows the learned optimizer at first. | {FAST}
    | ln loss of LGL2O minus that of L2O after 100 updates
L1-converges | published | MLP on MNIST: LGL2O then converges steadily. | {FAST}
    | Its ln loss at the end minus its lowest at any mark
L1-gl2o | published | MLP on MNIST: GL2O does not diverge but gives most of the early lead away. | {FAST}
    | The share of L2O's lead over SGDnm after 100 updates that GL2O lacks, the least and the largest over its settings,
    since the published ones are lost
L3 | published | Spirals: LGL2O beats both constituents in the end. | qualitative, after 50,000 steps (figure 4)
    | Its ln loss minus the lower one of L2O and SGDnm at the end
L3-100 | ours | Spirals: so does LGL2O with n = m = 100. | not run | As L3
L4-converges | published | Circles: with n = m = 100 LGL2O converges. | qualitative (figure 3, appendix H)
    | Its ln loss at the end minus its lowest at any mark
L4-noise | published | Circles: late in the run LGL2O with n = m = 10 is noisier than GL2O. | qualitative (figure 3)
    | Ratio of their late peaks (largest over median of the exact loss at 50 times in the second half of a run, median
    over seeds)
L4-cure | published | Circles: longer blocks, fixed (n = m = 100) or adaptive, cure the late noise.
    | qualitative (appendix H) | Their late peaks over that of n = m = 10
L4-cost | ours | Circles: the adaptive guard needs fewer evaluations per update than n = m = 100.
    | proposed as future work (section 4.2) | Ratio of gradient and loss evaluations per update
L4-both | ours | Circles: an adaptive guard that leaves what is undecided to the fallback is as steady late as n = m =
    100, and cheaper. | ours | Its late peak, and its evaluations per update, over those of n = m = 100; at most 1.1
    and below 1
{CONV}
L6 | published | Tiny ImageNet, 50 classes: GL2O and L2O diverge, LGL2O is like SGDnm. | qualitative (figure 6)
    | ln loss of L2O, of GL2O and of LGL2O minus that of SGDnm at the end; above 0.5, above 0.5, below 0.1
    | 100 of 100,000 updates, 2 seeds
L7 | published | Spirals: with Adam as fallback LGL2O gets clearly lower than with SGDnm. | qualitative (figure 7)
    | Difference of ln loss at the end
L8 | published | At all times LGL2O is at least as good as the better of L2O and SGDnm, up to comparison noise.
    | qualitative (section 4) | The share of pairs (run, one of 20 log-spaced times) in which its mean loss is at most
    that of the better constituent of the same seed plus two standard errors of the difference, and the share in which
    a second run of SGDnm is no worse than the first one by the same measure; the first at most 0.05 below the second
L8-adaptive | ours | The same for the adaptive guard (on the rows on which it runs). | ours | As L8
L8-careful | ours | The same for the adaptive guard that leaves what is undecided to the fallback. | ours | As L8
L8-careful-own | ours | The same for that guard with a fallback that keeps a run of its own. | ours | As L8
L8-own | ours | The same for the guard whose fallback keeps a run of its own (where it runs). | ours | As L8
L8-both | ours | The same for the guard both of whose optimizers keep a run of their own. | ours | As L8
L8-second | published | The same for LGL2O with the optimizer that was meta-trained on CIFAR-10.
    | qualitative (appendix D) | As L8, with that optimizer alone as the learned constituent
    | 740 of about 10,000 meta-steps
L9 | published | With the optimizer meta-trained on CIFAR-10 there is an exception: near a minimum, comparison noise
    makes LGL2O lose some of what it gained. | one case (appendix D) | The rise of ln loss from its lowest mark to the
    end, by row; one of them above 0.1 | 740 of about 10,000 meta-steps
L9-first | published | With the optimizer meta-trained on MNIST there is none. | none such (figures 2 to 8)
    | As L9; none above 0.1 | one meta-seed
""",
    {
        "L1-early": (_against("mnist-mlp", "l2o", "sgdnm", "adam", "gl2o", mark=0), below(0), 0.1),
        "L1-diverges": (_rise("mnist-mlp", "l2o"), above(0.5), 0.1),
        "L1-follows": (_against("mnist-mlp", "lgl2o", "l2o", mark=0), below(0.1), 0.2),
        "L1-converges": (_rise("mnist-mlp", "lgl2o"), below(0.1), 0.2),
        "L1-gl2o": (at("lost", by=lambda shares: [min(shares), max(shares)]), above(0.5), [0.3, 0.9]),
        "L3": (_against("spirals-mlp", "lgl2o", "l2o", "sgdnm"), below(0), 0.1),
        "L3-100": (_against("spirals-mlp", "lgl2o-100", "l2o", "sgdnm"), below(0), 0.1),
        "L4-converges": (_rise("circles-mlp", "lgl2o-100"), below(0.1), 0.2),
        "L4-noise": (_peak("lgl2o", "gl2o"), above(1), 0.9),
        "L4-cure": (values(_peak("lgl2o-100", "lgl2o"), _peak("lgl2o-adaptive", "lgl2o")), below(1), [0.9, 1.1]),
        "L4-cost": (_cost("lgl2o-adaptive", "lgl2o-100"), below(1), 1.1),
        "L4-both": (
            values(_peak("lgl2o-careful", "lgl2o-100"), _cost("lgl2o-careful", "lgl2o-100")),
            each(at_most(1.1), below(1)),
            [1.0, 1.1],
        ),
        "L5a-l2o": (_rise("mnist-conv", "l2o"), above(0.5), 0.1),
        "L5a-gl2o": (_against("mnist-conv", "gl2o", "sgdnm"), above(0.5), 0.1),
        "L5a-lgl2o": (_against("mnist-conv", "lgl2o", "sgdnm"), below(0.1), 0.2),
        "L5b-l2o": (_rise("cifar10-conv", "l2o"), above(0.5), 0.1),
        "L5b-gl2o": (_against("cifar10-conv", "gl2o", "sgdnm"), above(0.5), 0.1),
        "L5b-lgl2o": (_against("cifar10-conv", "lgl2o", "sgdnm"), below(0.1), 0.2),
        "L6": (
            values(*(_against("tiny-imagenet-conv", name, "sgdnm") for name in ("l2o", "gl2o", "lgl2o"))),
            each(above(0.5), above(0.5), below(0.1)),
            [1.0, 0.1, 0.0],
        ),
        "L7": (_against("spirals-mlp", "lgl2o-adam", "lgl2o"), below(-0.5), -0.1),
        **{
            "L8" + ("-second" if method == "lgl2o-cifar" else method.removeprefix("lgl2o")): (
                at("never_worse", method, "all"),
                lambda value: value[0] >= value[1] - 0.05,
                [0.5, 0.7],
            )
            for method in GUARDED
        },
        "L9": (_rises("lgl2o-cifar"), lambda value: max(value.values()) > 0.1, {"circles-mlp": 0.0}),
        "L9-first": (_rises("lgl2o"), at_most(0.1), {"circles-mlp": 0.2}),
    },
)
