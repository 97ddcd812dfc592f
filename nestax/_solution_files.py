"""Solutions on disk."""

from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from ._family import AnyFamily, as_family
from ._optax import AnyOptimizer, as_optimizer
from ._solve import Solution, solve
from ._storage import CheckpointError, StoredTree, save_tree

_KIND = "solution"


def save_solution(path: str | PathLike[str], solution: Solution) -> None:
    """Writes what `solve` returned, of one run or of many: players, optimizer state, records, and how it ended.

    One safetensors file, written atomically; its folder is made. `load_solution` reads it.
    """
    rows = {"losses": solution.losses.shape[-2], "others": solution.info.cost.gradients.shape[-1]}
    save_tree(Path(path), solution, {"kind": _KIND, "batch": list(solution.num_steps.shape), "records": rows})


def load_solution(path: str | PathLike[str], problem: AnyFamily, optimizer: AnyOptimizer) -> Solution:
    """Reads what `save_solution` wrote.

    **Arguments:** `problem`, `optimizer`: those of the run, or others of the same structure; they say what the players
    and the optimizer's state look like.

    **Raises** `CheckpointError` for a file that is damaged, is no solution, or is one of another structure.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem, optimizer = nx.problems.Rosenbrock(), nx.optimizers.adam(0.05)
    >>> solution = nx.solve(problem, optimizer, num_steps=100, key=jax.random.key(0))
    >>> nx.save_solution("rosenbrock.safetensors", solution)
    >>> solution = nx.load_solution("rosenbrock.safetensors", problem, optimizer)
    >>> more = nx.solve(
    ...     problem, optimizer, num_steps=100, key=jax.random.key(1), players=solution.players, state=solution.state
    ... )

    ```
    """
    stored = StoredTree(Path(path))
    header = stored.header
    if header.get("kind") != _KIND:
        raise CheckpointError(f"{path}: field 'kind' is {header.get('kind')!r}, so this is no solution.")
    optimizer, family = as_optimizer(optimizer), as_family(problem, "problem")

    def step(key) -> Any:
        return solve(family(key), optimizer, num_steps=optimizer.updates_per_step, key=key, throw=False)

    like = eqx.filter_eval_shape(step, jax.random.key(0))
    batch, rows = tuple(header["batch"]), header["records"]

    def stacked(leaf: Any, num: int | None = None) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        shape = leaf.shape if num is None else (num, *leaf.shape[1:])
        return jax.ShapeDtypeStruct((*batch, *shape), leaf.dtype)

    info = jax.tree.map(lambda x: stacked(x, rows["others"]), like.info)
    info = eqx.tree_at(lambda i: i.losses, info, stacked(like.info.losses, rows["losses"]))
    rest = jax.tree.map(stacked, eqx.tree_at(lambda s: s.info, like, None))
    return stored.restore(eqx.tree_at(lambda s: s.info, rest, info, is_leaf=lambda x: x is None))
