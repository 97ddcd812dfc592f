"""The numbers of `safeguard`: which defaults end lowest, and whether it is ever behind its fallback.

    python -m benchmarks.bench_safeguard [--threads 1|2] [--json PATH] [--rounds 4]

A recorded RNNprop (`results/l2o/in-distribution`) proposes; the fallback is decaying gradient descent
on the spirals, and Adam on the digits, on minibatches and on all data at once. One number is changed at a time: updates
per block, validation batches per block, and what becomes of a state that was not taken. Printed are mean ln losses over
all data, for `--rounds` seeds.
"""

import json
from pathlib import Path

from . import _arguments

RESULTS = Path(__file__).parent.parent / "results" / "l2o" / "in-distribution"
SEGMENT = 500
MARKS = (500, 1_000)


def main():
    args = _arguments.parse(__doc__, rounds=4)
    rows: dict[str, dict[str, list[float]]] = {}
    for name, (problem, fallback, variants) in problems().items():
        rows[name] = {}
        print(f"\n{name:32}" + "".join(f"{mark:>9,}" for mark in MARKS), flush=True)
        for variant, make in variants.items():
            rows[name][variant] = measure(problem, make, fallback, args.rounds)
            print(f"{variant:32}" + "".join(f"{x:9.2f}" for x in rows[name][variant]), flush=True)
            if args.json:  # after every row: a run takes minutes
                with open(args.json, "w") as file:
                    json.dump({"marks": MARKS, "seeds": args.rounds, "rows": rows}, file, indent=1)


def problems():
    """Name -> (problem, fallback, variants)."""
    import nestax as nx

    batches = {name: nx.catalogue.by_name(f"{name}-mlp") for name in ("digits", "spirals")}
    fallbacks = {"spirals": nx.optimizers.decaying_sgd(3.0, 50_000.0), "digits": nx.optimizers.adam(0.03)}
    # the state of plain gradient descent is a step count, so there is nothing to choose for it
    out = {name: (problem, fallbacks[name], variants(True, name == "digits")) for name, problem in batches.items()}
    whole = nx.problems.Classifier(batches["digits"].dataset, batches["digits"].architecture, batch_size=None)
    return {**out, "digits, all data": (whole, fallbacks["digits"], variants(False, True))}


def variants(noisy: bool, stateful: bool):
    """Name -> an optimizer from the learned one and the fallback."""
    from nestax import guards

    def safeguard(**kwargs):
        return lambda learned, fallback: guards.safeguard(learned, fallback, **kwargs)

    out = {
        "learned": lambda learned, fallback: learned,
        "fallback": lambda learned, fallback: fallback,
        "greedy": lambda learned, fallback: guards.LossGuard(learned, fallback),
        "safeguard": safeguard(),
    }
    out |= {f"num_steps={n}": safeguard(num_steps=n) for n in (1, 5, 20, 50)}
    if noisy:
        out |= {f"num_batches={m}": safeguard(num_batches=m) for m in (1, 3, 30)}
    if stateful:
        policies = (guards.Keep(), guards.Reset(), guards.Follow())
        out |= {f"on_accept={type(policy).__name__}()": safeguard(on_accept=policy) for policy in policies}
    return out | {"on_reject=Follow()": safeguard(on_reject=guards.Follow())}


def measure(problem, make, fallback, seeds: int) -> list[float]:
    """Mean ln losses at the marks."""
    import jax
    import numpy as np

    import nestax as nx

    keys = jax.random.split(jax.random.key(2_024), seeds)
    optimizer = make(nx.learned.load(RESULTS / "rnnprop-0.safetensors"), fallback)
    runs = jax.vmap(lambda key: run(problem, optimizer, key))(keys)
    return [round(float(x), 3) for x in np.log(np.asarray(runs)).mean(axis=0)]


def run(problem, optimizer, key):
    """The losses over all data at the marks, in segments of one length, so that one compilation serves all."""
    import jax
    import jax.numpy as jnp

    import nestax as nx

    players, state, losses = None, None, []
    for i in range(max(MARKS) // SEGMENT):
        solution = nx.solve(
            problem,
            optimizer,
            num_steps=SEGMENT,
            key=jax.random.fold_in(key, i),
            players=players,
            state=state,
            record_every=SEGMENT,
            throw=False,
        )
        players, state = solution.players, solution.state
        losses.append(problem.full_loss(players))
    return jnp.stack([losses[mark // SEGMENT - 1] for mark in MARKS])


if __name__ == "__main__":
    main()
