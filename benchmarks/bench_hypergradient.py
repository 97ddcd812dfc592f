"""Speed and memory of hypergradients, beside a loop written by hand in JAX, one in PyTorch, and torchopt.

    python -m benchmarks.bench_hypergradient [--threads 1|2] [--json PATH] [--rounds 10]

The jobs: one logarithm of a weight decay per weight; logistic regression (650 weights) and the MLP 64-128-10 (tanh,
9,610 weights) on scikit-learn's digits, with 128 or 1,000 training points and 500 validation points, full batches,
float32. "Neumann" is a series of 21 terms (20 products with the Hessian) with a given step size; "unrolled" goes
backwards through 20 steps of gradient descent. Milliseconds of processor time per hypergradient (other processes on the
core do not count), best of the rounds, all in one run and in alternation. "hvp" is one product with the Hessian,
linearized beforehand: 21 of them are a lower bound (20, and the mixed derivative). `overhead` is ours over the
hand-written one, goal 1.10, both inside `jax.jit`; "over" is the time of a peer over ours. "called" is `hypergradient`
called from Python, with its diagnostics: what `tune` does not pay.

The peer "torchopt" is its `diff.implicit.custom_root` with `solve_inv(ns=True)`, and for the unroll its `MetaSGD`, both
on a `torch.nn.Module`. "torch" is written by hand: the plain double-backward loop (`torch.autograd.grad` of a gradient
whose graph is built once), and the same steps with `create_graph=True`.

Memory is what the compiled program asks for besides its arguments (`memory_analysis`): Neumann with 2, 20 and 200
terms, and 1,600 unrolled steps of the MLP with 1,000 points under three rematerialization policies.

"training" is the cost of an outer step of tuning over as many plain training steps, N = 5 Adam steps each.
"""

import functools
import itertools
import json
import time

from . import _arguments

ALPHA, TERMS, STEPS, VALID = 0.1, 21, 20, 500
JOBS = {"logistic-128": ((), 128), "logistic-1000": ((), 1000), "mlp-128": ((128,), 128), "mlp-1000": ((128,), 1000)}


def main():
    args = _arguments.parse(__doc__, rounds=10)
    rows = {name: measure(job[0], job[1], args.threads, args.rounds) for name, job in JOBS.items()}
    columns = list(next(iter(rows.values())))
    print(f"{'milliseconds':16}" + "".join(f"{column:>18}" for column in columns))
    for name, row in rows.items():
        print(f"{name:16}" + "".join(f"{value:18.3g}" for value in row.values()))
    result = {"threads": args.threads, "ms": rows, "mib": memory(), "training": training(args.rounds)}
    for title in ("mib", "training"):
        print(f"\n{title}")
        for name, value in result[title].items():
            print(f"  {name:32} {value:10.4g}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


@functools.cache
def setting(hidden, num):
    """The problem, its players, and the same in plain functions."""
    import jax
    import jax.numpy as jnp

    import nestax as nx

    sizes = (64, *hidden, 10)
    data = nx.data.digits()
    inputs, labels = data.inputs, jax.nn.one_hot(data.labels, 10, dtype=jnp.float32)
    arrays = (inputs[:num], labels[:num], inputs[-VALID:], labels[-VALID:])

    def entropy(weights, inputs, labels):
        for i, (matrix, bias) in enumerate(weights):
            inputs = (jnp.tanh(inputs) if i else inputs) @ matrix + bias
        return -jnp.sum(labels * jax.nn.log_softmax(inputs)) / len(inputs)

    def penalty(decay, weights):
        return sum(jnp.sum(jnp.exp(d) * w**2) for d, w in zip(jax.tree.leaves(decay), jax.tree.leaves(weights)))

    def train_loss(decay, weights, arrays):
        return entropy(weights, *arrays[:2]) + penalty(decay, weights)

    def valid_loss(weights, arrays):
        return entropy(weights, *arrays[2:])

    class Decay(nx.AbstractNested, nx.AbstractDeterministicProblem):
        arrays: tuple

        def init(self, key):
            keys = jax.random.split(key, len(sizes))
            shapes = list(itertools.pairwise(sizes))
            weights = [(jax.random.normal(k, s) / s[0] ** 0.5, jnp.zeros(s[1])) for k, s in zip(keys, shapes)]
            return jax.tree.map(lambda w: jnp.full(w.shape, -4.0, jnp.float32), weights), weights

        def outer_loss(self, hyperparameters, weights, sample):
            return valid_loss(weights, self.arrays)

        def inner_loss(self, hyperparameters, weights, sample):
            return train_loss(hyperparameters, weights, self.arrays)

    problem = Decay(arrays)
    return problem, problem.init(jax.random.key(0)), train_loss, valid_loss


def jax_items(hidden, num):
    """What is timed in JAX, by name."""
    import jax

    import nestax as nx

    problem, players, train_loss, valid_loss = setting(hidden, num)
    arrays = problem.arrays

    @jax.jit
    def neumann(decay, weights, arrays, alpha):
        vector = jax.grad(valid_loss)(weights, arrays)
        _, hvp = jax.linearize(lambda w: jax.grad(train_loss, 1)(decay, w, arrays), weights)

        def body(_, state):
            vector, total = state
            vector = jax.tree.map(lambda v, h: v - alpha * h, vector, hvp(vector))
            return vector, jax.tree.map(lambda t, v: t + v, total, vector)

        total = jax.lax.fori_loop(0, TERMS - 1, body, (vector, vector))[1]
        pullback = jax.vjp(lambda d: jax.grad(train_loss, 1)(d, weights, arrays), decay)[1]
        return jax.tree.map(lambda x: -alpha * x, pullback(total)[0])

    @jax.jit
    def unrolled(decay, weights, arrays, alpha):
        def final(decay):
            def step(w, _):
                gradient = jax.grad(train_loss, 1)(decay, w, arrays)
                return jax.tree.map(lambda w, g: w - alpha * g, w, gradient), None

            return valid_loss(jax.lax.scan(step, weights, None, STEPS)[0], arrays)

        return jax.grad(final)(decay)

    @jax.jit
    def many_products(decay, weights, arrays):
        _, hvp = jax.linearize(lambda w: jax.grad(train_loss, 1)(decay, w, arrays), weights)
        return jax.lax.fori_loop(0, 200, lambda _, v: hvp(v), weights)

    series = nx.hyper.Implicit(nx.hyper.Neumann(TERMS, ALPHA), residual=False)
    backward = nx.hyper.Unrolled(nx.optimizers.sgd(ALPHA), STEPS)
    ours = jax.jit(lambda *args: nx.hyper.hypergradient(*args).gradient)
    return {
        "hvp": (lambda: many_products(*players, arrays), 200),
        "neumann": (lambda: ours(problem, players, None, series), 1),
        "neumann called": (lambda: nx.hyper.hypergradient(problem, players, None, series, throw=False).gradient, 1),
        "neumann by hand": (lambda: neumann(*players, arrays, ALPHA), 1),
        "unrolled": (lambda: ours(problem, players, None, backward), 1),
        "unrolled by hand": (lambda: unrolled(*players, arrays, ALPHA), 1),
    }


def torch_items(hidden, num, threads):
    """The same two jobs in PyTorch; empty where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]  (extra `bench`)
    except ImportError:
        return {}
    import jax
    import numpy as np

    torch.set_num_threads(threads)
    problem, players, _, _ = setting(hidden, num)

    def convert(tree):
        return [torch.tensor(np.asarray(x), requires_grad=True) for x in jax.tree.leaves(tree)]

    train_x, train_y, valid_x, valid_y = (torch.tensor(np.asarray(x)) for x in problem.arrays)
    decay, weights = convert(players[0]), convert(players[1])

    def entropy(weights, inputs, labels):
        for i in range(0, len(weights), 2):
            inputs = torch.addmm(weights[i + 1], torch.tanh(inputs) if i else inputs, weights[i])
        return -(labels * torch.log_softmax(inputs, 1)).sum() / len(inputs)

    def train_loss(decay, weights):
        return entropy(weights, train_x, train_y) + sum((d.exp() * w**2).sum() for d, w in zip(decay, weights))

    def neumann():
        vector = torch.autograd.grad(entropy(weights, valid_x, valid_y), weights)
        gradient = torch.autograd.grad(train_loss(decay, weights), weights, create_graph=True)
        total = vector
        for _ in range(TERMS - 1):
            image = torch.autograd.grad(gradient, weights, vector, retain_graph=True)
            vector = [v - ALPHA * x for v, x in zip(vector, image)]
            total = [t + v for t, v in zip(total, vector)]
        return [-ALPHA * x for x in torch.autograd.grad(gradient, decay, total)]

    def unrolled():
        moving = weights
        for _ in range(STEPS):
            gradient = torch.autograd.grad(train_loss(decay, moving), moving, create_graph=True)
            moving = [w - ALPHA * g for w, g in zip(moving, gradient)]
        return torch.autograd.grad(entropy(moving, valid_x, valid_y), decay)

    return {"neumann torch": (neumann, 1), "unrolled torch": (unrolled, 1)}


def torchopt_items(hidden, num, threads):
    """The same two jobs with torchopt, as its guides write them; empty where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]  (extra `bench`)
        import torchopt  # pyright: ignore[reportMissingImports]
        from torchopt.diff.implicit import custom_root  # pyright: ignore[reportMissingImports]
        from torchopt.linear_solve import solve_inv  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    import jax
    import numpy as np

    torch.set_num_threads(threads)
    problem, players, _, _ = setting(hidden, num)
    decay = [torch.tensor(np.asarray(x), requires_grad=True) for x in jax.tree.leaves(players[0])]
    train_x, train_y, valid_x, valid_y = (torch.tensor(np.asarray(x)) for x in problem.arrays)
    layers = [torch.nn.Linear(*shape) for shape in itertools.pairwise((64, *hidden, 10))]
    with torch.no_grad():
        for layer, (matrix, bias) in zip(layers, players[1]):
            layer.weight.copy_(torch.tensor(np.asarray(matrix).T))
            layer.bias.copy_(torch.tensor(np.asarray(bias)))
    model = torch.nn.Sequential(layers[0], *(x for layer in layers[1:] for x in (torch.nn.Tanh(), layer)))
    names = [name for name, _ in model.named_parameters()]
    # a leaf of ours is transposed in a module, which changes nothing where all decays are equal
    decay = [d.detach().T.contiguous().requires_grad_() if d.ndim == 2 else d for d in decay]
    entropy = torch.nn.functional.cross_entropy

    def penalty(decay, weights):
        return sum((d.exp() * w**2).sum() for d, w in zip(decay, weights))

    def outputs(weights, inputs):
        return torch.func.functional_call(model, dict(zip(names, weights)), (inputs,))

    def optimality(weights, *decay):
        return torch.func.grad(lambda w: entropy(outputs(w, train_x), train_y) + penalty(decay, w))(weights)

    series = solve_inv(ns=True, maxiter=TERMS - 1, alpha=ALPHA)
    solved = tuple(range(1, 1 + len(decay)))

    @custom_root(optimality, argnums=solved, solve=series)
    def best_response(weights, *decay):  # the weights are at hand, nothing is solved
        return weights

    def ours(gradients):
        return [g.T if g.ndim == 2 else g for g in gradients]

    def neumann():
        solution = best_response(tuple(model.parameters()), *decay)
        return ours(torch.autograd.grad(entropy(outputs(solution, valid_x), valid_y), decay))

    sgd = torchopt.MetaSGD(model, lr=ALPHA)
    start = [torchopt.extract_state_dict(x, by="reference") for x in (model, sgd)]

    def unrolled():
        for _ in range(STEPS):
            sgd.step(entropy(model(train_x), train_y) + penalty(decay, model.parameters()))
        gradients = torch.autograd.grad(entropy(model(valid_x), valid_y), decay)
        for x, state in zip((model, sgd), start):
            torchopt.recover_state_dict(x, state)
        return ours(gradients)

    return {"neumann torchopt": (neumann, 1), "unrolled torchopt": (unrolled, 1)}


def measure(hidden, num, threads, rounds):
    """Best milliseconds of every item, and the ratios."""
    import jax
    import numpy as np

    peers = torch_items(hidden, num, threads) | torchopt_items(hidden, num, threads)
    items = jax_items(hidden, num) | peers
    results = {name: run() for name, (run, _) in items.items()}  # compiles
    for job in ("neumann", "unrolled"):
        for other in (f"{job} by hand", f"{job} torch", f"{job} torchopt"):
            if other in results:
                got, want = (jax.tree.leaves(results[n]) for n in (job, other))
                for a, b in zip(got, want):
                    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-3, atol=2e-6)
    best = dict.fromkeys(items, float("inf"))
    for _ in range(rounds):
        for name, (run, count) in items.items():
            for _ in range(5):
                started = time.process_time()
                jax.block_until_ready(run())
                best[name] = min(best[name], 1e3 * (time.process_time() - started) / count)
    ratios = {"neumann / 21 hvp": best["neumann"] / (TERMS * best["hvp"])}
    for job in ("neumann", "unrolled"):
        ratios[f"{job} overhead"] = best[job] / best[f"{job} by hand"]
        for peer in ("torch", "torchopt"):
            if f"{job} {peer}" in best:
                ratios[f"{job} over {peer}"] = best[f"{job} {peer}"] / best[job]
    return {**best, **ratios}


def memory():
    """MiB that the compiled hypergradient needs besides its arguments, on the MLP with 1,000 points."""
    import equinox as eqx

    import nestax as nx

    problem, players, _, _ = setting((128,), 1000)

    def temporaries(method):
        function = eqx.filter_jit(lambda a, b, method: nx.hyper.hypergradient(a, b, None, method).gradient)
        analysis = function.lower(problem, players, method).compile().compiled.memory_analysis()
        return analysis.temp_size_in_bytes / 2**20

    sgd = nx.optimizers.sgd(ALPHA)
    out = {f"neumann, {n} terms": temporaries(nx.hyper.Implicit(nx.hyper.Neumann(n, ALPHA))) for n in (2, 20, 200)}
    policies = {"segments": nx.Segments(), "every step": nx.EveryStep(), "keep all": nx.KeepAll()}
    for name, policy in policies.items():
        out[f"unrolled 1600, {name}"] = temporaries(nx.hyper.Unrolled(sgd, 1600, mode=nx.hyper.Reverse(policy)))
    return out


def training(rounds):
    """An outer step of tuning over five plain Adam steps, by method, on the MLP with 1,000 points."""
    import equinox as eqx
    import jax
    import optax

    import nestax as nx

    problem, players, _, _ = setting((128,), 1000)
    outer_steps, inner_steps, key = 10, 5, jax.random.key(0)
    adam = nx.optimizers.adam(1e-3)
    own = nx.InnerProblem(problem, players[0])

    def plain():
        num = outer_steps * inner_steps
        return nx.solve(own, adam, num_steps=num, key=key, players=players[1:], record_every=num, throw=False).players

    def tuner(method):
        outer = nx.optimizers.Optax(optax.rmsprop, learning_rate=1e-2)

        def run():
            return nx.hyper.tune(
                problem,
                optimizer=adam,
                outer_optimizer=outer,
                num_outer_steps=outer_steps,
                num_inner_steps=inner_steps,
                record_every=outer_steps,
                method=method,
                players=players,
                key=key,
            ).players

        return run

    implicit = functools.partial(nx.hyper.Implicit, residual=False)
    runs = {
        "plain": plain,
        "identity": tuner(implicit(nx.hyper.Identity(ALPHA))),
        "neumann, 4 terms": tuner(implicit(nx.hyper.Neumann(4, ALPHA))),
        "neumann, 21 terms": tuner(implicit(nx.hyper.Neumann(TERMS, ALPHA))),
        "cg, 20 steps": tuner(implicit(nx.hyper.CG(20))),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds + 1):  # the first compiles
        for name, run in runs.items():
            started = time.process_time()
            jax.block_until_ready(eqx.filter(run(), eqx.is_array))
            best[name] = min(best[name], 1e3 * (time.process_time() - started) / outer_steps)
    ratios = {f"{name}, over plain": value / best["plain"] for name, value in best.items() if name != "plain"}
    return {"plain, ms per 5 steps": best["plain"], **ratios}


if __name__ == "__main__":
    main()
