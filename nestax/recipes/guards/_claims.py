"""What the publication on guarded learned optimizers claims, as predicates on the recipe's metrics."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .._recipe import Claim, Metrics

GUARDED = (
    "lgl2o",
    "lgl2o-adaptive",
    "lgl2o-careful",
    "lgl2o-careful-own",
    "lgl2o-own",
    "lgl2o-both",
    "lgl2o-cifar",
)  # methods that L8 is asked of


def never_worse(rows: dict[str, Any]) -> dict[str, Any]:
    """How often the guard is no worse than the better constituent, up to two standard errors.

    `share` and `rows` compare runs of the same seed, `over_seeds` means over seeds.
    """
    out: dict[str, Any] = {}
    for method in GUARDED:
        good, points, per_row, over_seeds = 0, 0, {}, []
        for name, results in rows.items():
            if method not in results:
                continue
            here = [_no_worse(results, method, mark, seed) for mark, seed in _points(results)]
            per_row[name] = round(sum(here) / len(here), 4)
            good, points = good + sum(here), points + len(here)
            over_seeds += [_no_worse_on_average(results, method, mark) for mark in results[method]["marks"]]
        out[method] = {
            "share": round(good / points, 4) if points else None,
            "points": points,
            "rows": per_row,
            "over_seeds": round(sum(over_seeds) / len(over_seeds), 4) if points else None,
        }
    return out


def _points(results: dict[str, Any]) -> list[tuple[str, int]]:
    marks = next(iter(results.values()))["marks"]
    return [(mark, seed) for mark, at in marks.items() for seed in range(len(at["loss"]))]


def _constituents(method: str) -> tuple[str, str]:
    return "l2o-cifar" if method.endswith("-cifar") else "l2o", "sgdnm"


def _no_worse(results: dict[str, Any], method: str, mark: str, seed: int) -> bool:
    values = {}
    learned, fallback = _constituents(method)
    for name in (method, learned, fallback):
        at = results[name]["marks"][mark]
        loss, error = at["loss"][seed], at["error"][seed]
        values[name] = (math.inf, 0.0) if loss is None or error is None else (loss, error)
    ours, ours_error = values[method]
    best, best_error = min(values[learned], values[fallback])
    return math.isfinite(ours) and bool(ours <= best + 2 * math.hypot(ours_error, best_error))


def _no_worse_on_average(results: dict[str, Any], method: str, mark: str) -> bool:
    """The same for means of ln loss over seeds, up to two standard errors over seeds."""
    values = {}
    learned, fallback = _constituents(method)
    for name in (method, learned, fallback):
        losses = results[name]["marks"][mark]["loss"]
        logs = np.log(np.maximum(np.array([np.inf if loss is None else loss for loss in losses], float), 1e-30))
        failed = len(logs) < 2 or not np.isfinite(logs).all()
        values[name] = (math.inf, 0.0) if failed else (logs.mean(), logs.std(ddof=1) / math.sqrt(len(logs)))
    ours, ours_error = values[method]
    best, best_error = min(values[learned], values[fallback])
    return math.isfinite(ours) and bool(ours <= best + 2 * math.hypot(ours_error, best_error))


def _last(results: dict[str, Any]) -> str:
    return list(next(iter(results.values()))["marks"])[-1]


def _ln(metrics: Metrics, row: str, method: str, mark: str | None = None) -> float | None:
    """Mean over seeds of ln loss at a mark, by default the last; infinite if a run failed, `None` if not measured."""
    results = metrics["rows"].get(row, {})
    if method not in results:
        return None
    losses = results[method]["marks"][_last(results) if mark is None else mark]["loss"]
    if None in losses:
        return math.inf
    return float(np.log(np.maximum(np.array(losses, float), 1e-30)).mean())


def _known(values: Iterable[float | None]) -> list[float]:
    """All of `values`, or none of them where one is missing."""
    out = list(values)
    known = [value for value in out if value is not None]
    return known if len(known) == len(out) else []


def _difference(a: float | None, b: float | None) -> float | None:
    """`a - b`, with 99 for infinity, since results are JSON."""
    if a is None or b is None:
        return None
    return round(max(-99.0, min(99.0, a - b)) if not (math.isinf(a) and math.isinf(b)) else 0.0, 4)


def _against(row: str, a: str, b: str) -> Callable[[Metrics], float | None]:
    """ln loss of method `a` minus that of `b` at the end of a row."""
    return lambda metrics: _difference(_ln(metrics, row, a), _ln(metrics, row, b))


def _marks_of(metrics: Metrics, row: str) -> list[str]:
    results = metrics["rows"].get(row, {})
    return list(next(iter(results.values()))["marks"]) if results and "missing" not in results else []


def _rise(row: str, method: str) -> Callable[[Metrics], float | None]:
    """ln loss at the end minus the lowest at any mark: how much of what was gained is lost again."""

    def value(metrics: Metrics) -> float | None:
        values = _known(_ln(metrics, row, method, mark) for mark in _marks_of(metrics, row))
        return _difference(values[-1], min(values)) if values else None

    return value


def _early_lead(metrics: Metrics) -> float | None:
    marks = _marks_of(metrics, "mnist-mlp")
    rivals = _known(_ln(metrics, "mnist-mlp", name, mark) for name in ("sgdnm", "adam", "gl2o") for mark in marks[:1])
    return _difference(min(rivals), _ln(metrics, "mnist-mlp", "l2o", marks[0])) if rivals else None


def _early_loss_of_gl2o(metrics: Metrics) -> float | None:
    """The share of L2O's early lead over SGDnm that GL2O gives away."""
    marks = _marks_of(metrics, "mnist-mlp")
    if not marks:
        return None
    l2o, sgdnm, gl2o = (_ln(metrics, "mnist-mlp", name, marks[0]) for name in ("l2o", "sgdnm", "gl2o"))
    lead, lost = _difference(sgdnm, l2o), _difference(gl2o, l2o)
    return None if not lead or lost is None else round(lost / lead, 4)


def _follows(metrics: Metrics) -> float | None:
    marks = _marks_of(metrics, "mnist-mlp")
    return (
        _difference(_ln(metrics, "mnist-mlp", "lgl2o", marks[0]), _ln(metrics, "mnist-mlp", "l2o", marks[0]))
        if marks
        else None
    )


def _reused(metrics: Metrics) -> float | None:
    seen = [flag for results in metrics["rows"].values() if "lgl2o" in results for flag in results["lgl2o"]["reused"]]
    return round(sum(seen) / len(seen), 4) if seen else None


def _peak(method: str) -> Callable[[Metrics], float | None]:
    return lambda metrics: metrics["steadiness"].get(method, {}).get("peak")


def _noisier(metrics: Metrics) -> float | None:
    ours, theirs = _peak("lgl2o")(metrics), _peak("gl2o")(metrics)
    return None if ours is None or theirs is None else round(ours / theirs, 4)


def _cure(metrics: Metrics) -> float | None:
    """The worst of the late peaks with longer blocks and with adaptive ones, over that of n = m = 10."""
    names = ("lgl2o", "lgl2o-100", "lgl2o-adaptive", "lgl2o-careful")
    peaks = _known(_peak(name)(metrics) for name in names)
    return round(max(peaks[1:]) / peaks[0], 4) if peaks else None


def _saved(method: str) -> Callable[[Metrics], float | None]:
    """Evaluations per update on circles, over those of n = m = 100."""

    def value(metrics: Metrics) -> float | None:
        results = metrics["rows"].get("circles-mlp", {})
        if method not in results:
            return None
        cost = [
            results[name]["gradients_per_update"] + results[name]["losses_per_update"] for name in (method, "lgl2o-100")
        ]
        return round(cost[0] / cost[1], 4)

    return value


def _steady_and_cheap(metrics: Metrics) -> list[float] | None:
    """Late peak and evaluations per update of the careful guard, both over those of n = m = 100."""
    peaks = [_peak(name)(metrics) for name in ("lgl2o-careful", "lgl2o-100")]
    cost = _saved("lgl2o-careful")(metrics)
    if peaks[0] is None or peaks[1] is None or cost is None:
        return None
    return [round(peaks[0] / peaks[1], 4), cost]


def _worst_rise(method: str) -> Callable[[Metrics], float | None]:
    def value(metrics: Metrics) -> float | None:
        rises = [_rise(row, method)(metrics) for row in metrics["rows"]]
        return max((rise for rise in rises if rise is not None), default=None)

    return value


def _share(method: str) -> Callable[[Metrics], float | None]:
    return lambda metrics: metrics["never_worse"][method]["share"]


def _conv(letter: str, row: str, name: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"L5{letter}-l2o",
            f"{name}: the learned optimizer diverges.",
            "qualitative (figures 5 and 8)",
            _rise(row, "l2o"),
            lambda value: value > 0.5,
            "Value: its ln loss at the end minus its lowest; above 0.5 (99: not finite).",
        ),
        Claim(
            f"L5{letter}-gl2o",
            f"{name}: GL2O diverges or stalls far above SGDnm.",
            "qualitative (figures 5 and 8)",
            _against(row, "gl2o", "sgdnm"),
            lambda value: value > 0.5,
            "Value: ln loss of GL2O minus that of SGDnm at the end; above 0.5.",
        ),
        Claim(
            f"L5{letter}-lgl2o",
            f"{name}: LGL2O tracks SGDnm.",
            "qualitative (figures 5 and 8)",
            _against(row, "lgl2o", "sgdnm"),
            lambda value: value < 0.1,
            "Value: ln loss of LGL2O minus that of SGDnm at the end; below 0.1.",
        ),
    )


CLAIMS = (
    Claim(
        "L1-early",
        "MLP on MNIST: the unguarded learned optimizer is the fastest at first.",
        "qualitative (figure 2)",
        _early_lead,
        lambda value: value > 0,
        "Value: lowest ln loss of SGDnm, Adam and GL2O minus that of L2O after 100 updates; above 0.",
    ),
    Claim(
        "L1-diverges",
        "MLP on MNIST: the unguarded learned optimizer later diverges.",
        "qualitative (figure 2)",
        _rise("mnist-mlp", "l2o"),
        lambda value: value > 0.5,
        "Value: its ln loss at the end minus its lowest at any mark; above 0.5.",
    ),
    Claim(
        "L1-follows",
        "MLP on MNIST: LGL2O follows the learned optimizer at first.",
        "qualitative (figure 2)",
        _follows,
        lambda value: value < 0.1,
        "Value: ln loss of LGL2O minus that of L2O after 100 updates; below 0.1.",
    ),
    Claim(
        "L1-converges",
        "MLP on MNIST: LGL2O then converges steadily.",
        "qualitative (figure 2)",
        _rise("mnist-mlp", "lgl2o"),
        lambda value: value < 0.1,
        "Value: its ln loss at the end minus its lowest at any mark; below 0.1.",
    ),
    Claim(
        "L1-gl2o",
        "MLP on MNIST: GL2O does not diverge but gives most of the early lead away.",
        "qualitative (figure 2)",
        _early_loss_of_gl2o,
        lambda value: value > 0.5,
        "Value: the share of L2O's lead over SGDnm after 100 updates that GL2O lacks; above one half.",
    ),
    Claim(
        "L2",
        "Switching is not one-way: the learned optimizer is used again after it was rejected for long.",
        "qualitative (section 4.1)",
        _reused,
        lambda value: value > 0,
        "Value: share of runs, over all rows, in which it is accepted again after ten rejections in a row; above 0.",
    ),
    Claim(
        "L3",
        "Spirals: LGL2O beats both constituents in the end.",
        "qualitative, after 50,000 steps (figure 4)",
        lambda metrics: max(
            _known(_against("spirals-mlp", "lgl2o", name)(metrics) for name in ("l2o", "sgdnm")), default=None
        ),
        lambda value: value < 0,
        "Value: its ln loss minus the lower one of L2O and SGDnm at the end; below 0.",
    ),
    Claim(
        "L4-converges",
        "Circles: LGL2O converges.",
        "qualitative (figure 3)",
        _rise("circles-mlp", "lgl2o"),
        lambda value: value < 0.1,
        "Value: its ln loss at the end minus its lowest at any mark; below 0.1.",
    ),
    Claim(
        "L4-noise",
        "Circles: late in the run LGL2O with n = m = 10 is noisier than GL2O.",
        "qualitative (figure 3)",
        _noisier,
        lambda value: value > 1,
        "Value: ratio of their late peaks (largest over median of the exact loss at 50 times in the second half of a "
        "run, median over seeds); above 1.",
    ),
    Claim(
        "L4-cure",
        "Circles: longer blocks, fixed (n = m = 100) or adaptive, cure the late noise.",
        "qualitative (appendix H)",
        _cure,
        lambda value: value < 1,
        "Value: the larger of their late peaks over that of n = m = 10; below 1.",
    ),
    Claim(
        "L4-cost",
        "Circles: the adaptive guard needs fewer evaluations per update than n = m = 100.",
        "proposed as future work (section 4.2)",
        _saved("lgl2o-adaptive"),
        lambda value: value < 1,
        "Value: ratio of gradient and loss evaluations per update; below 1.",
    ),
    Claim(
        "L4-both",
        "Circles: an adaptive guard that leaves what is undecided to the fallback is as steady late as n = m = 100, "
        "and cheaper.",
        "ours",
        _steady_and_cheap,
        lambda value: value[0] <= 1 and value[1] < 1,
        "Value: its late peak and its evaluations per update, over those of n = m = 100; at most 1, and below 1.",
    ),
    *_conv("a", "mnist-conv", "Conv on MNIST"),
    *_conv("b", "cifar10-conv", "Conv on CIFAR-10"),
    Claim(
        "L6",
        "Tiny ImageNet, 50 classes: GL2O and L2O diverge, LGL2O is like SGDnm.",
        "qualitative (figure 6)",
        lambda metrics: _against("tiny-imagenet-conv", "lgl2o", "sgdnm")(metrics),
        lambda value: value < 0.1,
        "Value: ln loss of LGL2O minus that of SGDnm at the end; below 0.1.",
    ),
    Claim(
        "L7",
        "Spirals: with Adam as fallback LGL2O gets clearly lower than with SGDnm.",
        "qualitative (figure 7)",
        _against("spirals-mlp", "lgl2o-adam", "lgl2o"),
        lambda value: value < -0.5,
        "Value: difference of ln loss at the end; below -0.5.",
    ),
    Claim(
        "L8",
        "At all times LGL2O is at least as good as the better of L2O and SGDnm, up to comparison noise.",
        "qualitative (section 4)",
        _share("lgl2o"),
        lambda value: value >= 0.95,
        "Value: share of pairs (run, one of 20 log-spaced times) in which its mean loss is at most that of the better "
        "constituent of the same seed plus two standard errors of the difference; at least 0.95.",
    ),
    Claim(
        "L8-adaptive",
        "The same for the adaptive guard (on the rows on which it runs).",
        "ours",
        _share("lgl2o-adaptive"),
        lambda value: value >= 0.95,
        "As L8.",
    ),
    Claim(
        "L8-careful",
        "The same for the adaptive guard that leaves what is undecided to the fallback.",
        "ours",
        _share("lgl2o-careful"),
        lambda value: value >= 0.95,
        "As L8.",
    ),
    Claim(
        "L8-careful-own",
        "The same for that guard with a fallback that keeps a run of its own.",
        "ours",
        _share("lgl2o-careful-own"),
        lambda value: value >= 0.95,
        "As L8.",
    ),
    Claim(
        "L8-own",
        "The same for the guard whose fallback keeps a run of its own (on the rows on which it runs).",
        "ours",
        _share("lgl2o-own"),
        lambda value: value >= 0.95,
        "As L8.",
    ),
    Claim(
        "L8-both",
        "The same for the guard both of whose optimizers keep a run of their own.",
        "ours",
        _share("lgl2o-both"),
        lambda value: value >= 0.95,
        "As L8. It is as good as the better one and no better, since neither profits from the other.",
    ),
    Claim(
        "L8-second",
        "The same for LGL2O with the optimizer that was meta-trained on CIFAR-10.",
        "qualitative (appendix D)",
        _share("lgl2o-cifar"),
        lambda value: value >= 0.95,
        "As L8, with that optimizer alone as the learned constituent.",
    ),
    Claim(
        "L9",
        "With the optimizer meta-trained on CIFAR-10 there is an exception: near a minimum, comparison noise makes "
        "LGL2O lose some of what it gained.",
        "one case (appendix D)",
        _worst_rise("lgl2o-cifar"),
        lambda value: value > 0.1,
        "Value: the largest rise, over rows, of ln loss from its lowest mark to the end; above 0.1 is such a case.",
    ),
    Claim(
        "L9-first",
        "The same with the optimizer that was meta-trained on MNIST.",
        "none such (figures 2 to 8)",
        _worst_rise("lgl2o"),
        lambda value: value <= 0.1,
        "As L9; at most 0.1.",
    ),
)
