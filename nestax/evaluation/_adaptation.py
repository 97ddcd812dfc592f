"""Adaptation of learned optimizers judged: adapt to one problem, run on another, over paired repeats."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from .._checks import count
from .._family import AnyFamily, as_family
from .._solve import solve
from ..learned import AbstractLearnedOptimizer
from ..meta import adapt


@dataclasses.dataclass(frozen=True)
class AdaptationMethod:
    """A way to get an optimizer for a new problem.

    **Arguments:** `optimizer`: where to start from: one learned optimizer, or one per repeat, such as trainings with
    different seeds. `num_steps`: meta-updates of adaptation. Default 5; 0 is none.
    """

    optimizer: AbstractLearnedOptimizer | Sequence[AbstractLearnedOptimizer]
    num_steps: int = 5

    def start(self, repeat: int) -> AbstractLearnedOptimizer:
        """The optimizer of one repeat before adaptation."""
        return self.optimizer if isinstance(self.optimizer, AbstractLearnedOptimizer) else self.optimizer[repeat]


def four_methods(
    untrained: AbstractLearnedOptimizer | Sequence[AbstractLearnedOptimizer],
    trained: AbstractLearnedOptimizer | Sequence[AbstractLearnedOptimizer],
    nested: AbstractLearnedOptimizer | Sequence[AbstractLearnedOptimizer],
    num_steps: int = 5,
) -> dict[str, AdaptationMethod]:
    """The methods of M-L2O (Yang et al., 2023): "vanilla" (adaptation alone), "direct-transfer" (plain meta-training
    alone), "transfer-learning" (both), and "m-l2o" (nested meta-training, then adaptation).

    **Arguments:** optimizers that are `untrained`, `trained` as usual, and trained with `meta.AdaptedGradient`; one
    each, or one per repeat. `num_steps`: of adaptation.
    """
    return {
        "vanilla": AdaptationMethod(untrained, num_steps),
        "direct-transfer": AdaptationMethod(trained, 0),
        "transfer-learning": AdaptationMethod(trained, num_steps),
        "m-l2o": AdaptationMethod(nested, num_steps),
    }


@dataclasses.dataclass(frozen=True)
class AdaptationRun:
    """One method on one repeat.

    - `optimizer`: as adapted. `losses`: before every step of the test run. `adapted`: false where the adaptation failed
      and the optimizer is as it was; true if none was asked for.
    """

    optimizer: AbstractLearnedOptimizer
    losses: Float[np.ndarray, " steps"]
    adapted: bool

    @property
    def score(self) -> float:
        """The smallest $\\log_{10}$ of the loss over the run: the metric of M-L2O."""
        finite = self.losses[np.isfinite(self.losses)]
        return float(np.log10(finite.min())) if finite.size and finite.min() > 0 else math.inf


def run_adapted(
    optimizer: AbstractLearnedOptimizer,
    adaptation: AnyFamily,
    test: AnyFamily,
    *,
    key: PRNGKeyArray,
    adaptation_steps: int = 5,
    num_steps: int = 1_000,
    **how: Any,
) -> AdaptationRun:
    """Adapts `optimizer` to a problem drawn from `adaptation`, and runs it, frozen, on one drawn from `test`.

    Problems, initial points and samples depend on the key alone, so methods that share it are paired.

    **Arguments:** `key`; `adaptation_steps`: meta-updates; `num_steps`: of the test run, by default 1,000 as released;
    `how`: further arguments of `meta.adapt`.
    """
    keys = jax.random.split(key, 4)
    own = as_family(adaptation, "adaptation")(keys[0])
    adapted = adapt(optimizer, own, key=keys[1], num_steps=adaptation_steps, **how)
    problem = as_family(test, "test")(keys[2])
    solution = solve(problem, adapted.optimizer, num_steps=num_steps, key=keys[3], throw=False)
    return AdaptationRun(adapted.optimizer, np.asarray(solution.losses[:, 0]), adapted.num_steps == adaptation_steps)


@dataclasses.dataclass(frozen=True)
class AdaptationComparison:
    """What `compare_adaptation` returns: of every method the losses of all repeats, and their scores."""

    losses: dict[str, Float[np.ndarray, "repeats steps"]]
    scores: dict[str, Float[np.ndarray, " repeats"]]
    num_failed: dict[str, int]

    def mean(self, name: str) -> tuple[float, float, float]:
        """The mean score of a method and its 95 % interval (Student's t)."""
        return mean_interval(self.scores[name])

    def difference(self, name: str, other: str) -> tuple[float, float, float]:
        """The mean of the paired differences, score of `name` minus that of `other`, and its 95 % interval."""
        return mean_interval(self.scores[name] - self.scores[other])

    def rows(self) -> list[dict[str, Any]]:
        """A table: the score of every method with its interval, and its distance from the last method."""
        last = list(self.scores)[-1]
        return [
            {
                "method": name,
                "log10 of the smallest loss": _text(self.mean(name)),
                f"minus {last}": _text(self.difference(name, last)) if name != last else "",
                "failed adaptations": self.num_failed[name],
            }
            for name in self.scores
        ]


def mean_interval(values: Float[np.ndarray, " values"]) -> tuple[float, float, float]:
    """The mean of independent values and its 95 % interval by Student's t; infinite ends where there is one value."""
    import scipy.special  # here, since it is slow to load

    mean = float(np.mean(values))
    if values.size < 2:
        return mean, -math.inf, math.inf
    half = float(scipy.special.stdtrit(values.size - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(values.size))
    return mean, mean - half, mean + half


def _text(values: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def compare_adaptation(
    methods: Mapping[str, AdaptationMethod],
    adaptation: AnyFamily,
    test: AnyFamily,
    *,
    key: PRNGKeyArray,
    num_repeats: int = 10,
    num_steps: int = 1_000,
    **how: Any,
) -> AdaptationComparison:
    r"""Methods compared on the same problems: adapt to one, then run on another.

    In every repeat one problem is drawn from `adaptation` and another one from `test`, the same for all methods, with
    the same initial points and samples. The score is the smallest $\log_{10}$ of the loss over the test run.

    **Arguments:**

    - `methods`: by name; see `four_methods`.
    - `adaptation`, `test`: problems, families of problems, or functions from a PRNG key to a problem.
    - `key`: a PRNG key. `num_repeats`: default 10, as published. `num_steps`: of the test run, default 1,000.
    - `how`: further arguments of `meta.adapt`, such as `unroll` or `estimator`.

    **Returns** an `AdaptationComparison`.

    **Raises** `ValueError` for no methods, and for lists of optimizers of another length than the repeats.

    **Source:** Yang et al., "M-L2O", ICLR 2023, section 5, with $\log_{10}$ as the logarithm. **Deviation:** the
    released commands for Rosenbrock's function adapt and test some methods on the same problem, here all on different
    ones.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> family = nx.FromSampler(nx.problems.normal_lasso, sigma=10.0, num_instances=6, rows=3, dim=3)
    >>> rules = [nx.learned.preset("rnnprop-m-l2o", key=jax.random.key(seed)) for seed in (0, 1, 2)]
    >>> methods = nx.evaluation.four_methods(*rules, num_steps=1)
    >>> settings = {"num_repeats": 2, "num_steps": 20}
    >>> found = nx.evaluation.compare_adaptation(methods, family, family, key=jax.random.key(3), **settings)
    >>> list(found.scores)
    ['vanilla', 'direct-transfer', 'transfer-learning', 'm-l2o']

    ```
    """
    num_repeats = count(num_repeats, "num_repeats")
    if not methods:
        raise ValueError("`methods` is empty: give at least one `AdaptationMethod`.")
    for name, method in methods.items():
        given = method.optimizer
        if not isinstance(given, AbstractLearnedOptimizer) and len(given) != num_repeats:
            raise ValueError(
                f"The method '{name}' needs one optimizer, or one per repeat: got {len(given)} for {num_repeats} "
                "repeats."
            )
    runs = {
        name: [
            run_adapted(
                method.start(i), adaptation, test, key=k, adaptation_steps=method.num_steps, num_steps=num_steps, **how
            )
            for i, k in enumerate(jax.random.split(key, num_repeats))
        ]
        for name, method in methods.items()
    }
    return AdaptationComparison(
        {name: np.stack([run.losses for run in found]) for name, found in runs.items()},
        {name: np.array([run.score for run in found]) for name, found in runs.items()},
        {name: sum(not run.adapted for run in found) for name, found in runs.items()},
    )
