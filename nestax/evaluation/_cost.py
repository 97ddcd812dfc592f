"""What a step of an optimizer costs."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .._checks import count
from .._optax import AnyOptimizer, as_optimizer
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem
from .._rollout import rollout
from .._solve import stack_samples, start
from .._step import OptimizerStep


def clock() -> float:
    """Seconds to measure costs by: of the processor on a CPU, by the clock on the wall elsewhere.

    On a CPU the process's own processor time, of all its threads together, is nearly the same on a busy machine as on
    a quiet one. It says nothing of an accelerator, which works while the process waits. Wait for what is timed
    (`jax.block_until_ready`) before both readings.
    """
    on_cpu = jax.default_backend() == "cpu" and time.get_clock_info("process_time").resolution < 1e-4
    return time.process_time() if on_cpu else time.perf_counter()


def seconds_per_step(
    problem: AbstractProblem,
    optimizers: Mapping[str, AnyOptimizer],
    *,
    key: PRNGKeyArray,
    num_steps: int = 100,
    num_timings: int = 5,
) -> dict[str, float]:
    """Seconds per update of a single run of every optimizer, compilation excluded.

    Timings are taken in turns, so that what slows the machine down slows all of them down, and of each optimizer the
    best counts. They are of the processor on a CPU, all threads together, so that they hold on a busy machine, too; on
    an accelerator they are of the clock on the wall, and the machine has to be quiet. A call costs some tenths of a
    millisecond, which its steps share: take more of them for problems of a few numbers.

    **Arguments:**

    - `problem`, `optimizers`: as in `evaluate`.
    - `key`: fixes the initial point and the samples.
    - `num_steps`: steps per timing. Default 100.
    - `num_timings`: of each optimizer, besides a first run that compiles. Default 5.

    **Raises** `ValueError` for counts below 1.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> contestants = {"sgd": nx.optimizers.sgd(0.1), "adam": nx.optimizers.adam(0.1)}
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> seconds = nx.evaluation.seconds_per_step(problem, contestants, key=jax.random.key(0))
    >>> min(seconds.values()) > 0
    True

    ```
    """
    num_steps, num_timings = count(num_steps, "num_steps"), count(num_timings, "num_timings")
    contestants = {name: as_optimizer(one, f"optimizers[{name!r}]") for name, one in optimizers.items()}
    sizes = {one.samples_per_step for one in contestants.values()}
    samples = {size: stack_samples(problem, key, num_steps, size) for size in sizes}
    runs = {
        name: _run(problem, one, key, samples[one.samples_per_step], num_steps) for name, one in contestants.items()
    }
    best = dict.fromkeys(runs, math.inf)
    for run in runs.values():
        run()  # compiles
    for _ in range(num_timings):
        for name, run in runs.items():
            started = clock()
            run()
            best[name] = min(best[name], clock() - started)
    return {name: best[name] / (num_steps * one.updates_per_step) for name, one in contestants.items()}


@eqx.filter_jit
def _last(step: OptimizerStep, carry: Any, samples: Any, num_steps: int) -> Any:
    return rollout(step, carry, samples, num_steps=num_steps, throw=False).carry


def _run(
    problem: AbstractProblem, optimizer: AbstractOptimizer, key: PRNGKeyArray, samples: Any, num_steps: int
) -> Callable[[], Any]:
    players, state, _ = start(problem, optimizer, None, None, key)
    step = OptimizerStep(problem, optimizer)
    return lambda: jax.block_until_ready(eqx.filter(_last(step, (players, state), samples, num_steps), eqx.is_array))
