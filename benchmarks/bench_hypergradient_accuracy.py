"""How far hypergradients are off, by solver, and what that means for tuning: the measurement behind the default.

    python -m benchmarks.bench_hypergradient_accuracy [--json PATH] [--rounds 1]

"error" is the distance of a float32 hypergradient to the exact one at the same weights in float64 (pseudo-inverse of
the whole Hessian), over its length; beside it the cosine, the relative residual that `info` reports, and products with
the Hessian. The hyperparameters are one logarithm of a decay per weight. The problems: ridge regressions on 38 features
whose Hessians have the conditions 10, 211 and 10,000, at their minimum; softmax regression and networks 64-16-10 on 200
of scikit-learn's digits. `tanh` is trained out (5,000 steps of Adam, positive definite), `relu` is not (500 steps): its
Hessian is indefinite with eigenvalues next to zero, an exact inverse means nothing there, and only residuals count.

"tuning" is what `tune` reaches: validation loss and test accuracy of the network 64-32-10 after 400 outer steps of five
Adam steps each, and processor seconds without compilation; and for the ridge of condition 211 the validation loss over
that of the closed form after as many steps as both need (`ridge over closed form`).
"""

import functools
import json
import time
from typing import Any

from . import _arguments

NUM = 200


def main():
    args = _arguments.parse(__doc__, rounds=1)
    result: dict[str, Any] = {"problems": {}, "tuning": {}}
    for name, make in problems().items():
        result["problems"][name] = rows = measure(*make())
        print(f"{name}: {rows['weights']} weights, eigenvalues {rows['low']:.2g} to {rows['high']:.2g}")
        for method, row in rows["methods"].items():
            print(f"  {method:24}" + "".join(f"{key} {value:<12.3g}" for key, value in row.items()), flush=True)
    for name, solver in solvers().items():
        if name in TUNED:
            result["tuning"][name] = tuned(solver)
            print(name, result["tuning"][name], flush=True)
    result["ridge over closed form"] = ridge_over_closed_form()
    print("ridge over closed form", result["ridge over closed form"])
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


TUNED = ("Neumann(20)", "CG(100, 1e-3)", "MINRES(100, 3e-4)", "MINRES, warm")


def solvers():
    from nestax import hyper

    return {
        "Neumann(20)": hyper.Neumann(20),
        "Neumann(100)": hyper.Neumann(100),
        "CG(20)": hyper.CG(20),
        "CG(100, 1e-3)": hyper.CG(100, 1e-3),
        "GMRES(50)": hyper.GMRES(50),
        "MINRES(20)": hyper.MINRES(20, 0.0),
        "MINRES(100, 1e-3)": hyper.MINRES(100, 1e-3),
        "MINRES(100, 3e-4)": hyper.MINRES(100, 3e-4),
        "MINRES(100, 1e-4)": hyper.MINRES(100, 1e-4),
        "MINRES, warm": hyper.MINRES(warm_start=True),
    }


def problems():
    return {
        "ridge, condition 10": lambda: ridge(10.0, -8.0),
        "ridge, condition 211": lambda: ridge(211.0, -8.0),
        "ridge, condition 10,000": lambda: ridge(1e4, -14.0),
        "softmax regression": lambda: network((), "relu", 2_000),
        "tanh, trained out": lambda: network((16,), "tanh", 5_000),
        "relu, not trained out": lambda: network((16,), "relu", 500),
    }


@functools.cache
def ridge(condition, penalty):
    """Features of that condition, and the minimum in closed form, in float64."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import nestax as nx

    class Ridge(nx.AbstractNested, nx.AbstractDeterministicProblem):
        arrays: tuple

        def init(self, key):
            size = self.arrays[0].shape[1]
            return jnp.full(size, penalty, jnp.float32), jnp.zeros(size, jnp.float32)

        def outer_loss(self, hyperparameters, weights, sample):
            return jnp.mean((self.arrays[2] @ weights - self.arrays[3]) ** 2)

        def inner_loss(self, hyperparameters, weights, sample):
            inputs, targets = self.arrays[:2]
            return jnp.mean((inputs @ weights - targets) ** 2) + jnp.sum(jnp.exp(hyperparameters) * weights**2)

    rng, size = np.random.default_rng(0), 38
    left = np.linalg.qr(rng.normal(size=(120, size)))[0]
    right = np.linalg.qr(rng.normal(size=(size, size)))[0]
    scales = np.sqrt(np.geomspace(1 / condition, 1, size))
    inputs = left * scales @ right.T * np.sqrt(120)
    valid = rng.normal(size=(80, size)) * scales @ right.T
    truth = rng.normal(size=size)
    targets, valid_targets = (x @ truth + 0.5 * rng.normal(size=len(x)) for x in (inputs, valid))
    weights = np.linalg.solve(inputs.T @ inputs / 120 + np.exp(penalty) * np.eye(size), inputs.T @ targets / 120)
    problem = Ridge((inputs, targets, valid, valid_targets))
    return problem, (np.full(size, penalty), weights), jax.random.key(0)


def network(hidden, activation, num_steps):
    """Digits with a decay per weight, trained in float32."""
    import jax

    import nestax as nx

    problem = decays(hidden, activation)
    hyperparameters, weights = problem.init(jax.random.key(0))
    inner = nx.InnerProblem(problem, hyperparameters)
    solution = nx.solve(
        inner, nx.optimizers.adam(1e-2), num_steps=num_steps, key=jax.random.key(1), players=(weights,), record_every=50
    )
    return problem, (hyperparameters, solution.players[0]), jax.random.key(0)


def decays(hidden, activation="relu"):
    import nestax as nx

    train, valid = nx.data.digits().take(slice(2 * NUM)).split(NUM)
    decay = nx.hyperparameters.WeightDecay(per="weight")
    return nx.problems.NestedClassifier(train, valid, nx.networks.MLP(hidden, activation), decay)


def measure(problem, players, key):
    import jax
    import numpy as np
    from jax.flatten_util import ravel_pytree

    import nestax as nx

    sample = jax.tree.map(lambda x: x[0], problem.samples(key, 1))

    def flat(tree):
        return np.asarray(ravel_pytree(tree)[0], float)

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide = cast((problem, players, sample), np.float64)
        exact = nx.hyper.Implicit(nx.hyper.Exact(pinv=True), residual=False)
        out = nx.hyper.hypergradient(wide[0], wide[1], wide[2], exact, throw=False)
        truth, info = flat(out.gradient), out.info
    narrow, rows = cast((problem, players, sample), np.float32), {}
    for name, solver in solvers().items():
        if "warm" in name:
            continue
        got = nx.hyper.hypergradient(narrow[0], narrow[1], narrow[2], nx.hyper.Implicit(solver), throw=False)
        gradient = flat(got.gradient)
        rows[name] = {
            "error": float(np.linalg.norm(gradient - truth) / np.linalg.norm(truth)),
            "cosine": float(gradient @ truth / np.linalg.norm(gradient) / np.linalg.norm(truth)),
            "residual": float(got.info.residual),
            "products": int(got.info.solver.num_products),
        }
    return {
        "weights": len(flat(players[1])),
        "low": float(info.solver.min_rayleigh),
        "high": float(info.solver.largest_eigenvalue),
        "inner_gradient_norm": float(info.inner_gradient_norm),
        "methods": rows,
    }


def cast(tree, dtype) -> Any:
    """Every floating-point array in `dtype`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def leaf(x):
        real = isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(x, dtype) if real else x

    return jax.tree.map(leaf, tree)


def tuned(solver):
    import jax

    import nestax as nx

    problem, test = decays((32,)), nx.data.digits().take(slice(2 * NUM, 1_797))

    def run(num_outer_steps):
        return nx.hyper.tune(
            problem,
            optimizer=nx.optimizers.adam(0.01),
            outer_optimizer=nx.optimizers.rmsprop(0.01, decay=0.99, eps=1e-16),
            method=nx.hyper.Implicit(solver, residual=False),
            num_outer_steps=num_outer_steps,
            num_inner_steps=5,
            record_every=50,
            key=jax.random.key(0),
        )

    run(50)  # compiles
    started = time.process_time()
    tuning = run(400)
    seconds = time.process_time() - started
    return {
        "validation loss": tuning.history[-1]["outer_loss"],
        "test accuracy": float(problem.accuracy(tuning.players[1], test)),
        "seconds": seconds,
    }


def ridge_over_closed_form():
    """The validation loss that `tune` ends with, by its defaults, over the one of L-BFGS on the closed form."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import scipy.optimize

    import nestax as nx

    problem = ridge(211.0, -8.0)[0]
    inputs, targets, valid, valid_targets = problem.arrays
    with jax.enable_x64(True):

        def closed(logs):
            matrix = inputs.T @ inputs / len(inputs) + jnp.diag(jnp.exp(logs))
            weights = jnp.linalg.solve(matrix, inputs.T @ targets / len(inputs))
            return jnp.mean((valid @ weights - valid_targets) ** 2)

        function = jax.jit(jax.value_and_grad(closed))
        found = scipy.optimize.minimize(
            lambda x: tuple(np.asarray(y) for y in function(x)),
            np.full(inputs.shape[1], -4.0),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-14, 8)] * inputs.shape[1],
        )
    narrow, _ = cast((problem, None), np.float32)
    start = (jnp.full(inputs.shape[1], -4.0), jnp.zeros(inputs.shape[1]))
    tuning = nx.hyper.tune(
        narrow,
        optimizer=nx.optimizers.adam(0.02),
        outer_optimizer=nx.optimizers.adam(0.05),
        num_outer_steps=500,
        num_inner_steps=50,
        record_every=50,
        players=start,
        key=jax.random.key(0),
    )
    logs = np.asarray(tuning.players[0], float)
    with jax.enable_x64(True):
        return float(closed(logs)) / float(found.fun)


if __name__ == "__main__":
    main()
