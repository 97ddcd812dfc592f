"""Self-tuning networks: their losses with the weights of every example formed, their tangents in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import data, hyperparameters, networks, problems
from nestax._gated import OutputAxis, is_gated, of_example
from nestax.hyper import AdaptiveAround, Around, Hypernetwork, Linearized, Perturbed, SelfTuning, StructuredResponse

RNG = np.random.default_rng(0)
TRAIN, VALID = data.Dataset(RNG.normal(size=(10, 6)), RNG.integers(0, 3, 10), "toy", 3, (3, 2)).split(6)


def randomized(tree):
    return jax.tree.map(lambda x: jnp.asarray(0.5 * RNG.normal(size=x.shape)), tree)


@pytest.fixture(scope="module")
def classifier():
    """A network with one hidden layer and a decay per array: penalties whose values differ from example to example."""
    return problems.NestedClassifier(
        TRAIN, VALID, networks.MLP((4,), "tanh"), hyperparameters.WeightDecay("tensor", -2.0)
    )


def prepared(problem, form, sampling=None, **options):
    """The problem of the response, with all parameters at random, and a sample."""
    made = SelfTuning(form, sampling, **options).prepare(problem)
    located, parameters = jax.eval_shape(made.init, jax.random.key(0))
    located = eqx.tree_at(lambda l: l.hyperparameters, located, randomized(located.hyperparameters))
    if located.spread is not None:
        located = eqx.tree_at(lambda l: l.spread, located, jnp.asarray(RNG.normal(size=located.spread.shape)))
    sample = jax.tree.map(lambda x: x[0], made.samples(jax.random.key(1), 1))
    return made, located, randomized(parameters), sample


def cross_entropies(problem, weights, dataset):
    return -jax.nn.log_softmax(problem.logits(weights, dataset))[jnp.arange(len(dataset)), dataset.labels]


def penalties(problem, made, located, parameters, sample, rows):
    """The penalty at the hyperparameters and the weights of some examples, in the mean."""
    values, deltas = made.perturb(located, sample)
    gated = made.response.gated(parameters, deltas)
    each = [
        problem.hyperparameters.penalty(jax.tree.map(lambda x, i=i: x[i], values), of_example(gated, i)) for i in rows
    ]
    return jnp.mean(jnp.stack(each))


def test_perturbed_loss_is_the_mean_over_examples_with_their_own_weights(classifier):
    made, located, parameters, sample = prepared(classifier, Perturbed(), num_penalties=3)

    @jax.jit
    def both(parameters):
        _, deltas = made.perturb(located, sample)
        gated = made.response.gated(parameters, deltas)
        each = [cross_entropies(classifier, of_example(gated, i), TRAIN)[i] for i in range(6)]
        # a penalty for one example from either half in turn
        expected = jnp.mean(jnp.stack(each)) + penalties(classifier, made, located, parameters, sample, (0, 3, 1))
        return made.inner_loss(located, parameters, sample), expected, deltas

    got, expected, deltas = both(parameters)
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    np.testing.assert_allclose(deltas[0] + deltas[3], 2 * deltas.mean(axis=0), rtol=1e-10)  # opposite perturbations


def test_linearized_response_is_the_finite_difference_of_the_network(classifier):
    made, located, parameters, sample = prepared(classifier, Linearized())
    step = 1e-5

    @jax.jit
    def both(parameters):
        _, deltas = made.perturb(located, sample)
        losses = []
        for i in range(6):
            up, down = (classifier.logits(made.response(parameters, s * deltas[i]), TRAIN)[i] for s in (step, -step))
            logits = classifier.logits(parameters["weights"], TRAIN)[i] + (up - down) / (2 * step)
            losses.append(-jax.nn.log_softmax(logits)[TRAIN.labels[i]])
        expected = jnp.mean(jnp.stack(losses)) + penalties(classifier, made, located, parameters, sample, (0, 3))
        return made.form.response_loss(made, located, parameters, sample), expected

    got, expected = both(parameters)
    np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_steps_of_the_linearized_form_move_disjoint_parameters(classifier):
    made, located, parameters, sample = prepared(classifier, Linearized())
    got = jax.jit(jax.grad(lambda p: made.inner_loss(located, p, sample)))(parameters)
    general = jax.jit(jax.grad(lambda w: classifier.inner_loss(located.hyperparameters, w, sample.sample)))(
        parameters["weights"]
    )
    response = jax.jit(jax.grad(lambda p: made.form.response_loss(made, located, p, sample)))(parameters)
    assert not any(leaf.any() for leaf in jax.tree.leaves(response["weights"]))
    expected = {**response, "weights": general}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, expected)


@pytest.mark.parametrize("form", [Perturbed(), Linearized()], ids=["STN", "Delta-STN"])
def test_response_without_a_perturbation_is_the_plain_network(classifier, form):
    made, located, parameters, sample = prepared(classifier, form, Around(0.1))
    if isinstance(form, Perturbed):  # a function of the hyperparameters themselves
        located = jax.tree.map(jnp.zeros_like, located)
    hyperparameters, weights = made.original((located, parameters))
    jax.tree.map(np.testing.assert_array_equal, weights, parameters["weights"])
    plain = classifier.outer_loss(hyperparameters, parameters["weights"], sample.sample)
    np.testing.assert_allclose(made.outer_loss(located, parameters, sample), plain, rtol=1e-12)


def test_validation_loss_of_an_adaptive_scale(classifier):
    """Every validation example has its own response; the entropy has the gradient that the paper says."""
    made, located, parameters, sample = prepared(classifier, Linearized(), AdaptiveAround(0.5, entropy_weight=0.01))
    closed = {**parameters, "gates": jax.tree.map(jnp.zeros_like, parameters["gates"])}

    @jax.jit
    def all_three(parameters):
        draws = made.sampling.draw(sample.key, located.hyperparameters, located.spread, 4)
        center = draws.mean(axis=0)  # pairs of opposite ones
        each = [
            cross_entropies(classifier, made.response(parameters, (draw - center) / 0.5), VALID)[i]
            for i, draw in enumerate(draws)
        ]
        slope = jax.grad(made.outer_loss)(located, closed, sample)
        return made.outer_loss(located, parameters, sample), jnp.mean(jnp.stack(each)), slope.spread

    got, loss, slope = all_three(parameters)
    scale = np.log1p(np.exp(located.spread))
    entropy = np.sum(np.log(scale * np.sqrt(2 * np.pi * np.e)))
    np.testing.assert_allclose(got, loss - 0.01 * entropy, rtol=1e-8)
    np.testing.assert_allclose(slope, -0.01 / (1 + np.exp(-located.spread)) / scale, rtol=1e-9)


def test_hyperparameters_that_examples_share_have_one_draw():
    family = hyperparameters.Compose(
        hyperparameters.DropConnect("all"), hyperparameters.Dropout("layer1"), hyperparameters.WeightDecay("all")
    )
    problem = problems.NestedClassifier(TRAIN, VALID, networks.MLP((4,)), family)
    made, located, parameters, sample = prepared(problem, Perturbed())
    (connect, drop, decay), _ = eqx.filter_jit(made.perturb)(located, sample)
    assert len(set(connect.tolist())) == 1
    assert len(set(drop.tolist())) == len(set(decay.tolist())) == 6
    assert jnp.isfinite(eqx.filter_jit(made.inner_loss)(located, parameters, sample))
    all_shared = prepared(problem, Linearized(), shared=True)
    assert all(len(set(x.tolist())) == 1 for x in all_shared[0].perturb(all_shared[1], all_shared[3])[0])


@pytest.mark.training
def test_language_models_tune_themselves():
    """Dropped words and recurrent weights are shared, since examples share them; other rates are not."""
    text = data.Corpus(jnp.arange(40, dtype=jnp.int32) % 3, ("a", "b", "<eos>"), "toy")
    model = networks.LSTMLanguageModel(3, width=2, num_layers=1)
    problem = problems.NestedLanguageModel(text, text, model, nx.catalogue.lstm_regularization(model), 4, 3, 2)
    made, located, parameters, sample = prepared(problem, Linearized())
    names = ["temporal", "embedding", "input", "output", "recurrent", "activation"]
    values = dict(zip(names, made.perturb(located, sample)[0]))
    assert {name for name, x in values.items() if len(set(x.tolist())) == 1} == {"embedding", "recurrent"}
    slope = jax.jit(jax.grad(lambda p: made.form.response_loss(made, located, p, sample)))(parameters)
    assert all(leaf.any() for name in ("responses", "gates") for leaf in jax.tree.leaves(slope[name]))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


class Regression(nx.AbstractNestedExamples):
    r"""Linear regression on orthonormal inputs with a decay per output: $w_o^*(\lambda) = c_o / (1 + e^{\lambda_o})$,
    with the coefficients $c$, so that a gate on each output represents the response.
    """

    inputs: jax.Array
    targets: jax.Array
    target: jax.Array  # of the weights, in the validation loss
    weights_differ: bool = eqx.field(static=True, default=False)

    def init(self, key):
        return jnp.array([-1.0, 0.5]), jnp.zeros((3, 2))

    def samples(self, key, num):
        return jnp.zeros(num)

    def outer_loss(self, hyperparameters, weights, sample):
        # its examples are the weights' entries, so that all of them see one response
        weights = of_example(weights, 0) if self.weights_differ else weights
        return 0.5 * jnp.sum((weights - self.target) ** 2)

    def predict(self, hyperparameters, weights, sample):
        if not is_gated(weights):
            return self.inputs @ weights
        return self.inputs @ weights.weight + weights.gate * (self.inputs @ weights.response)

    def output_losses(self, hyperparameters, outputs, sample):
        return 0.5 * jnp.sum((outputs - self.targets) ** 2, axis=1)

    def regularizer(self, hyperparameters, weights):
        def one(values, weights):
            return 0.5 * jnp.sum(jnp.exp(values)[None, :] * weights**2)

        if not is_gated(weights):
            return one(hyperparameters, weights)
        return jnp.mean(jnp.stack([one(hyperparameters[i], of_example(weights, i)) for i in (0, 24, 1, 25)]))

    def num_examples(self, sample):
        return len(self.inputs), 2

    def each(self, num_penalties):
        return Regression(self.inputs, self.targets, self.target, True)

    def output_axes(self, weights):
        return OutputAxis()

    def shared(self, hyperparameters):
        return False

    def response(self, hyperparameters):
        """The exact weights, and their derivative with respect to the decay of their output."""
        factor = 1 / (1 + jnp.exp(hyperparameters))
        coefficients = self.inputs.T @ self.targets / len(self.inputs)
        return coefficients * factor[None], -coefficients * (factor * (1 - factor))[None]


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(7)
    inputs = np.linalg.qr(rng.normal(size=(48, 3)))[0] * np.sqrt(48)
    return Regression(jnp.asarray(inputs), jnp.asarray(inputs @ rng.normal(size=(3, 2))), jnp.ones((3, 2)))


def exact_response(regression, made, located, factor):
    """The parameters whose response is `factor` times the exact one, to first order."""
    weights, slope = regression.response(located.hyperparameters)
    if isinstance(made.form, Linearized):
        unit = made.sampling.unit(located.hyperparameters)
        return {"weights": weights, "responses": slope, "gates": factor * jnp.diag(unit)}
    return {
        "weights": weights - factor * slope * located.hyperparameters[None],
        "responses": slope,
        "gates": factor * jnp.eye(2),
    }


@pytest.mark.parametrize("form", [Perturbed(), Linearized()], ids=["STN", "Delta-STN"])
def test_exact_response_of_ridge_regression_is_the_optimum(regression, form):
    """There the gradient of the gates vanishes, within 5 percent of that at no response and the noise of the draws."""
    method = SelfTuning(form, Around(0.15))
    made = method.prepare(regression)
    located, _ = made.init(jax.random.key(0))
    samples = made.samples(jax.random.key(1), 20_000)

    @jax.jit
    def slope(parameters):
        each = jax.vmap(jax.grad(lambda p, x: made.inner_loss(located, p, x)), (None, 0))(parameters, samples)
        if isinstance(form, Linearized):
            return each["gates"]
        # in the centred coordinates: the gates without what moves the weights at the current hyperparameters
        moved = jnp.sum(parameters["responses"][None] * each["weights"], axis=1)
        return each["gates"] - moved[:, :, None] * located.hyperparameters[None, None]

    without, exact = (slope(exact_response(regression, made, located, factor)) for factor in (0.0, 1.0))
    noise = exact.std(axis=0) / np.sqrt(len(exact))
    assert (jnp.abs(exact.mean(axis=0)) < 0.05 * jnp.abs(jnp.diag(without.mean(axis=0)))[None] + 3 * noise).all()
    # and the hypergradient through it is the exact one, whatever sign or factor could be wrong on the way
    parameters = exact_response(regression, made, located, 1.0)
    out = method(made, (located, parameters), jax.tree.map(lambda x: x[0], samples), None)
    weights, change = regression.response(located.hyperparameters)
    at_weights = regression.inner_loss(located.hyperparameters, weights, None)
    np.testing.assert_allclose(out.info.inner_loss, at_weights, rtol=1e-9)  # without perturbation, and once
    np.testing.assert_allclose(
        out.gradient.hyperparameters, jnp.sum((weights - regression.target) * change, axis=0), rtol=1e-9
    )


def test_structured_response_with_one_draw_learns_the_tangent_of_ridge_regression(regression):
    """Trained until it converges, it has the derivative of the exact response within 5 percent."""
    made = Hypernetwork(StructuredResponse(), Around(0.05)).prepare(regression)
    located, parameters = made.init(jax.random.key(0))
    fit = nx.solve(
        nx.InnerProblem(made, located),
        optax.adam(optax.cosine_decay_schedule(0.03, 1_500)),
        num_steps=1_500,
        key=jax.random.key(1),
        players=(parameters,),
        record_every=1_500,
    )
    weights, slope = regression.response(located.hyperparameters)
    tangent = jax.jit(jax.jacobian(lambda h: made.respond(fit.players[0], h, located.hyperparameters)))(
        located.hyperparameters
    )
    np.testing.assert_allclose(made.original((located, fit.players[0]))[1], weights, atol=0.01)
    expected = slope[:, :, None] * jnp.eye(2)[None]
    assert jnp.linalg.norm(tangent - expected) < 0.05 * jnp.linalg.norm(expected)


@pytest.mark.parametrize("form", [Perturbed(), Linearized()], ids=["STN", "Delta-STN"])
def test_tuning_moves_decays_to_their_optimum(regression, form):
    """The weights' target is their least-squares solution, so the best decay is none; scales fall, as is said."""
    problem = Regression(regression.inputs, regression.targets, regression.response(jnp.full(2, -30.0))[0])
    method = SelfTuning(form, AdaptiveAround(0.1, entropy_weight=0.0, smallest=0.09))
    with pytest.warns(UserWarning, match="scales of . of 2 hyperparameters collapsed to their lower bound, 0.09"):
        tuning = nx.hyper.tune(
            problem,
            method=method,
            optimizer=optax.adam(0.02),
            outer_optimizer=optax.adam(0.05),
            num_outer_steps=150,
            num_inner_steps=5,
            record_every=50,
            key=jax.random.key(0),
        )
    assert (tuning.players[0] < jnp.array([-1.0, 0.5]) - 1).all()
    assert tuning.history[-1]["outer_loss"] < 0.5 * tuning.history[0]["outer_loss"]
    assert tuning.history[-1]["smallest_scale"] == pytest.approx(0.09)


def test_scale_zero_is_warned_of(classifier):
    with pytest.warns(UserWarning, match="not identified"):
        SelfTuning(sampling=Around(0.0))


def test_other_problems_are_told_what_to_do():
    toy = data.Regression(jnp.ones((3, 2)), jnp.ones(3), "toy")
    with pytest.raises(ValueError, match=r"no `AbstractNestedExamples`. .*`Hypernetwork\(StructuredResponse\(\)\)`"):
        SelfTuning().prepare(problems.NestedRegression(toy, toy))


def test_structured_response_needs_an_array_with_outputs():
    with pytest.raises(ValueError, match="no array of the weights has outputs"):
        StructuredResponse().init(jax.random.key(0), 1, jnp.ones(()))


def test_distilled_data_cannot_differ_between_examples():
    problem = problems.NestedClassifier(TRAIN, VALID, networks.MLP(()), hyperparameters.DistilledData())
    made, located, parameters, sample = prepared(problem, Perturbed())
    with pytest.raises(ValueError, match="`DistilledData` makes 3 examples of one"):
        made.inner_loss(located, parameters, sample)


def test_flags_must_be_truth_values(unchecked):
    with pytest.raises(ValueError, match="`shared` must be a pytree of `True` and `False`"):
        SelfTuning(shared=(1, 0))


def test_non_finite_validation_loss_is_an_error():
    wrong = data.Dataset(np.full((4, 6), 1e308), VALID.labels, "toy", 3, (3, 2))
    problem = problems.NestedClassifier(
        TRAIN, wrong, networks.MLP((), init_scale=100.0), hyperparameters.WeightDecay("all")
    )
    with pytest.raises(nx.NumericalError, match="outer loss is inf or NaN"):
        nx.hyper.tune(
            problem,
            method=SelfTuning(),
            optimizer=optax.sgd(0.1),
            outer_optimizer=optax.sgd(0.1),
            num_outer_steps=1,
            num_inner_steps=1,
            key=jax.random.key(0),
        )
