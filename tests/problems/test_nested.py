"""Nested problems and families of hyperparameters: every place where they enter the training loss, in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import nestax as nx
from nestax import catalogue, data, hyperparameters, networks, problems
from nestax.hyperparameters._noise import concrete_mask

from ..helpers import assert_close, cast, central_difference


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(20, 6)), rng.integers(0, 3, 20)
    return data.Dataset(inputs, labels, "toy", 3, (3, 2)).split(12)


@pytest.fixture(scope="module")
def texts():
    words = np.random.default_rng(1).integers(0, 5, 60).astype(np.int32)
    corpus = data.Corpus(jnp.asarray(words), ("a", "b", "c", "d", "<eos>"), "toy")
    return data.Corpus(corpus.tokens[:40], corpus.vocabulary, "train"), data.Corpus(
        corpus.tokens[40:], corpus.vocabulary, "valid"
    )


def classifier(sets, family, architecture=None, **options):
    architecture = networks.MLP((), init_scale=0.5) if architecture is None else architecture
    return problems.NestedClassifier(sets[0], sets[1], architecture, family, **options)


def at(problem, seed=0):
    """Players, with weights that need no compiled draws, and one sample."""
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    weights = jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape)), jax.eval_shape(problem.init, key)[1])
    values = problem.hyperparameters.init(key, weights, problem.train)
    sample = jax.tree.map(lambda x: x[0], problem.samples(jax.random.key(seed + 1), 1))
    return (values, weights), sample


def cross_entropies(weights, dataset):
    """The loss of every example of a linear classifier."""
    layer = jax.tree.map(np.asarray, weights[0])
    logits = np.asarray(dataset.inputs, float) @ layer["weight"] + layer["bias"]
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(dataset)), np.asarray(dataset.labels)]


def test_validation_loss_sees_the_weights_alone(sets):
    problem = classifier(sets, hyperparameters.WeightDecay())
    (values, weights), sample = at(problem)
    loss, slope = jax.jit(jax.value_and_grad(problem.outer_loss))(values, weights, sample)
    np.testing.assert_allclose(loss, cross_entropies(weights, sets[1]).mean(), rtol=1e-10)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slope))
    np.testing.assert_allclose(problem.full_loss(weights, sets[1]), loss, rtol=1e-12)


def test_weight_decay_against_numpy(sets):
    rng = np.random.default_rng(2)
    for per, num in (("weight", 21), ("tensor", 2), ("all", 1)):
        problem = classifier(sets, hyperparameters.WeightDecay(per, initial=-1.5))
        (values, weights), sample = at(problem)
        assert sum(x.size for x in jax.tree.leaves(values)) == num
        assert all((x == -1.5).all() for x in jax.tree.leaves(values))
        values = jax.tree.map(lambda x: x + rng.normal(size=x.shape), values)
        logs = jax.tree.map(lambda w, v=values: v, weights) if per == "all" else values
        terms = jax.tree.map(lambda a, w: np.sum(np.exp(a) * np.asarray(w) ** 2), logs, weights)
        penalty = sum(jax.tree.leaves(terms))
        loss = eqx.filter_jit(problem.inner_loss)(values, weights, sample)
        np.testing.assert_allclose(loss, cross_entropies(weights, sets[0]).mean() + penalty, rtol=1e-10)


def test_mixed_derivative_of_weight_decay(sets):
    r"""$x^\top \partial^2 L_T / \partial w \partial\lambda = 2 e^\lambda w x$ for one decay per weight."""
    problem = classifier(sets, hyperparameters.WeightDecay())
    (values, weights), sample = at(problem)
    x = jax.tree.map(lambda w: jnp.cos(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape), weights)
    cotangent = (jax.tree.map(jnp.zeros_like, values), x)
    product = jax.jit(lambda p: nx.game_vjp(problem, p, sample, cotangent))((values, weights))[0]
    for got, log, w, y in zip(*map(jax.tree.leaves, (product, values, weights, x))):
        np.testing.assert_allclose(got, 2 * np.exp(log) * w * y, rtol=1e-10)


def test_example_weights_against_numpy(sets):
    problem = classifier(sets, hyperparameters.ExampleWeights(), batch_size=5)
    (values, weights), sample = at(problem)
    values = values + jnp.linspace(-2, 2, 12)
    loss, slope = jax.jit(jax.value_and_grad(problem.inner_loss))(values, weights, sample)
    losses, factor = cross_entropies(weights, sets[0]), scipy.special.expit(np.asarray(values))
    drawn = np.asarray(sample.train)
    np.testing.assert_allclose(loss, (factor * losses)[drawn].mean(), rtol=1e-10)
    times = np.bincount(drawn, minlength=12)
    np.testing.assert_allclose(slope, times * factor * (1 - factor) * losses / 5, rtol=1e-10, atol=1e-15)


def test_distilled_data_take_the_place_of_the_training_data(sets):
    problem = classifier(sets, hyperparameters.DistilledData(num_per_class=2, initial=0.1))
    (values, weights), sample = at(problem)
    assert values.shape == (6, 3, 2)
    assert (values == 0.1).all()
    values = values + jnp.sin(jnp.arange(36.0)).reshape(6, 3, 2)
    made = data.Dataset(np.asarray(values), np.array([0, 1, 2, 0, 1, 2]), "made", 3)
    loss = eqx.filter_jit(problem.inner_loss)(values, weights, sample)
    np.testing.assert_allclose(loss, cross_entropies(weights, made).mean(), rtol=1e-10)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_augmentation_is_the_image_and_a_bounded_change(channels, key):
    shape = (4, 2, *channels)
    rng = np.random.default_rng(3)
    dataset = data.Dataset(rng.normal(size=(3, *shape)), np.arange(3) % 2, "toy", 2)
    family = hyperparameters.LearnedAugmentation(width=2)
    problem = problems.NestedClassifier(dataset, dataset, networks.MLP(()), family)
    shapes = jax.eval_shape(problem.init, key)  # compiling its draws takes seconds, and any values will do
    values, weights = jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape)), shapes)
    images = dataset.images
    inside = jax.random.fold_in(key, 0)  # the first of the places where the key of the sample goes

    def everything(values, weights):
        noise = jax.random.normal(inside, (3, 1, 1, 1), images.dtype)
        noisy = jnp.concatenate([images.reshape(3, 4, 2, -1), jnp.broadcast_to(noise, (3, 4, 2, 1))], axis=3)
        size = noisy.shape[3]
        loss = problem.inner_loss(values, weights, nx.NestedSample(None, None, key))
        return family.augment(values, images, inside), networks.UNet(size, size - 1, 2)(values, noisy), loss

    changed, output, loss = jax.jit(everything)(values, weights)
    np.testing.assert_allclose(changed, images + jnp.tanh(output).reshape(images.shape), rtol=1e-9)
    assert float(jnp.abs(output).min()) > 0
    augmented = data.Dataset(changed, dataset.labels, "augmented", 2)
    np.testing.assert_allclose(loss, cross_entropies(weights, augmented).mean(), rtol=1e-9)


def test_concrete_mask(key):
    """Its formula; and at low temperature 0 with probability p and else 1 / (1 - p), so that its mean is 1."""
    logit, temperature = jnp.array([-1.0, 0.5]), jnp.asarray(0.1)
    mask = concrete_mask(logit, key, (1000, 2), temperature)
    u = np.asarray(jax.random.uniform(key, (1000, 2), logit.dtype))
    p = scipy.special.expit(np.asarray(logit))
    dropped = scipy.special.expit((scipy.special.logit(p) + np.log(u + 1e-7) - np.log(1 - u + 1e-7)) / 0.1)
    np.testing.assert_allclose(mask, (1 - dropped) / (1 - p), rtol=1e-9, atol=1e-12)
    cold = np.asarray(concrete_mask(logit, key, (20_000, 2), jnp.asarray(1e-6)))
    np.testing.assert_allclose((cold == 0).mean(axis=0), p, atol=0.015)  # 4 standard errors
    np.testing.assert_allclose(cold.max(axis=0), 1 / (1 - p), rtol=1e-9)


def test_gradient_of_dropout_rates_against_central_differences(sets):
    """With the key of the sample fixed, the training loss is a smooth function of the rates."""
    family = hyperparameters.Compose(
        hyperparameters.Dropout("layer1", shape=(4,), rate=0.3), hyperparameters.DropConnect("all", rate=0.2)
    )
    problem = classifier(sets, family, networks.MLP((4,), "tanh", init_scale=0.5))
    (values, weights), sample = at(problem)
    loss = jax.jit(lambda v: problem.inner_loss(v, weights, sample))
    slope = jax.jit(jax.grad(lambda v: problem.inner_loss(v, weights, sample)))(values)
    for i in range(4):
        numeric = central_difference(lambda t, i=i: loss((values[0].at[i].add(t), values[1])), 0.0)
        np.testing.assert_allclose(slope[0][i], numeric, rtol=1e-5, atol=1e-8)
    numeric = central_difference(lambda t: loss((values[0], values[1] + t)), 0.0)
    np.testing.assert_allclose(slope[1], numeric, rtol=1e-5, atol=1e-8)
    assert float(jnp.abs(slope[0]).max()) > 1e-4
    assert abs(float(slope[1])) > 1e-4
    other = nx.NestedSample(None, None, jax.random.key(99))
    assert float(problem.inner_loss(values, weights, other)) != float(loss(values))


def test_dropout_masks_are_constant_along_shared_axes(key):
    family = hyperparameters.Dropout(("a", "b"), shared_axes=(1,), shape=(4,), rate=0.5)
    values = jnp.linspace(-1.0, 1.0, 4)
    ones = jnp.ones((3, 5, 4))
    (first, _), (second, _) = (family.activation(values, site, ones, key) for site in "ab")
    np.testing.assert_array_equal(first, jnp.broadcast_to(first[:, :1], (3, 5, 4)))
    assert len(np.unique(first)) == 12
    assert not np.isin(first, second).any()  # the same rates, other masks


def test_drop_connect_leaves_biases_alone(sets, key):
    family = hyperparameters.DropConnect("weight", rate=0.5)
    problem = classifier(sets, family)
    (values, weights), _ = at(problem)
    assert [v.shape for v in values] == [(6, 3)]
    noisy = family.weights(values, weights, key)
    np.testing.assert_array_equal(noisy[0]["bias"], weights[0]["bias"])
    ratio = np.asarray(noisy[0]["weight"] / weights[0]["weight"])
    assert len(np.unique(ratio)) == 18
    assert (ratio <= 2 + 1e-9).all()


def test_activation_penalties_and_their_order(sets, key):
    z = jnp.sin(jnp.arange(24.0)).reshape(2, 3, 4)
    temporal, dropout = hyperparameters.TemporalActivationDecay("x", 0.7), hyperparameters.Dropout("x")
    family = hyperparameters.Compose(temporal, dropout, hyperparameters.ActivationDecay("x", 1.3))
    values = family.init(key, {"w": jnp.zeros(1)}, sets[0])
    np.testing.assert_allclose(jax.nn.softplus(values[0]), 0.7, rtol=1e-12)
    dropped, penalty = family.activation(values, "x", z, key)
    np.testing.assert_array_equal(dropped, dropout.activation(values[1], "x", z, jax.random.fold_in(key, 1))[0])
    expected = 0.7 * np.mean(np.diff(z, axis=1) ** 2) + 1.3 * np.mean(np.asarray(dropped) ** 2)
    np.testing.assert_allclose(penalty, expected, rtol=1e-10)
    with pytest.raises(ValueError, match="no sequences"):
        temporal.activation(values[0], "x", z[0], key)


@pytest.fixture(scope="module")
def language(texts):
    model = networks.LSTMLanguageModel(5, width=3)
    return problems.NestedLanguageModel(
        texts[0], texts[1], model, catalogue.lstm_regularization(model), length=4, batch_size=2
    )


def test_each_of_the_seven_acts_on_the_training_of_the_language_model(language):
    players, sample = at(language)
    slope = jax.jit(jax.grad(language.inner_loss))(*players, sample)
    assert len(slope) == 7
    assert all(abs(float(g)) > 1e-9 for g in slope)
    outputs = eqx.filter_jit(language.predict)(*players, sample)
    losses = language.output_losses(players[0], outputs, sample)
    assert losses.shape == (8,)
    words = np.stack([np.asarray(language.train.tokens[s : s + 5]) for s in np.asarray(sample.train)])
    logits = np.asarray(outputs[0])
    expected = -scipy.special.log_softmax(logits, axis=1)[np.arange(8), words[:, 1:].ravel()]
    np.testing.assert_allclose(losses, expected + float(outputs[1]), rtol=1e-10)


def test_perplexity_reads_the_text_in_order(language, texts):
    (_, weights), sample = at(language)
    stretch = texts[1].tokens.reshape(2, 10)
    logits, _ = eqx.filter_jit(language.model.__call__)(weights, stretch[:, :8])
    log = jax.nn.log_softmax(logits)
    losses = [-log[i, t, stretch[i, t + 1]] for i in range(2) for t in range(8)]
    np.testing.assert_allclose(language.perplexity(weights, texts[1], 2), np.exp(np.mean(losses)), rtol=1e-10)
    # all windows of a text, side by side: 0-4, 4-8, 8-12, 12-16
    full = nx.NestedSample(None, None, sample.key)
    words = np.stack([np.asarray(texts[1].tokens[s : s + 5]) for s in (0, 4, 8, 12)])
    logits, _ = eqx.filter_jit(language.model.__call__)(weights, jnp.asarray(words[:, :-1]))
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), words[:, 1:, None], axis=2)
    np.testing.assert_allclose(language.outer_loss(None, weights, full), -picked.mean(), rtol=1e-10)


def test_inner_problem_is_training_at_fixed_hyperparameters(sets):
    nested = classifier(sets, hyperparameters.WeightDecay("all"), batch_size=4)
    (values, weights), _ = at(nested)
    problem = nx.InnerProblem(nested, values)
    sample = jax.tree.map(lambda x: x[0], problem.samples(jax.random.key(3), 2))
    assert float(problem.losses((weights,), sample)[0]) == float(nested.inner_loss(values, weights, sample))
    (init,), (_, expected) = jax.jit(lambda key: (problem.init(key), nested.init(key)))(jax.random.key(0))
    np.testing.assert_array_equal(init[0]["weight"], expected[0]["weight"])


def test_gauss_newton_is_the_hessian_of_a_linear_network(sets):
    """Penalty and importance of examples are where they belong: both curvatures give one hypergradient."""
    problem = classifier(
        sets, hyperparameters.Compose(hyperparameters.WeightDecay(initial=-1.0), hyperparameters.ExampleWeights(0.5))
    )
    players, sample = at(problem)
    exact, gauss_newton = (
        nx.hyper.hypergradient(
            problem, players, sample, nx.hyper.Implicit(nx.hyper.Exact(), c, residual=False)
        ).gradient
        for c in (nx.hyper.Hessian(), nx.hyper.GaussNewton())
    )
    assert_close(gauss_newton, exact, rtol=1e-8, atol=1e-12)
    assert all(jnp.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(exact))


@pytest.mark.parametrize(
    "make", [hyperparameters.WeightDecay, hyperparameters.ExampleWeights, hyperparameters.DropConnect]
)
def test_losses_have_the_precision_of_the_weights(make, sets):
    problem = classifier(sets, make(), batch_size=4)
    players, sample = at(problem)
    losses = jax.eval_shape(problem.losses, cast(players, jnp.float32), sample)
    assert [loss.dtype for loss in losses] == [jnp.float32, jnp.float32]


def test_a_network_that_knows_no_sites_will_do_without_them(sets):
    class Linear(networks.AbstractArchitecture):
        def init(self, key, input_shape, num_classes):
            return jnp.ones((6, num_classes))

        def __call__(self, params, inputs):  # pyright: ignore[reportIncompatibleMethodOverride]
            return inputs.reshape(inputs.shape[0], -1) @ params

    problem = classifier(sets, hyperparameters.WeightDecay("all"), Linear())
    (values, _), sample = at(problem)
    weights = jnp.ones((6, 3))
    np.testing.assert_allclose(problem.inner_loss(values, weights, sample), np.log(3) + 18 * np.exp(-4), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, t: classifier(s, None), "`hyperparameters` must be an `AbstractHyperparameters`"),
        (
            lambda s, t: classifier(s, hyperparameters.WeightDecay(), "mlp"),
            "`architecture` must be an `AbstractArchitecture`",
        ),
        (lambda s, t: classifier((s[0], data.digits()), hyperparameters.WeightDecay()), "was made for"),
        (lambda s, t: hyperparameters.WeightDecay("layer"), "`per` must be"),
        (lambda s, t: hyperparameters.WeightDecay(initial=np.ones(2)), "`initial` must be a single number"),
        (lambda s, t: hyperparameters.Compose(), "one or more families"),
        (lambda s, t: hyperparameters.Dropout(()), "`sites` must name at least one"),
        (lambda s, t: hyperparameters.Dropout("layer0", rate=0.0), "`rate` must lie between 0 and 1"),
        (lambda s, t: hyperparameters.Dropout("layer0", temperature=0.0), "`temperature` must be a positive"),
        (lambda s, t: hyperparameters.ActivationDecay("layer0", 0.0), "`initial` must be a positive"),
        (lambda s, t: hyperparameters.DropConnect("layer"), "`per` must be"),
        (lambda s, t: hyperparameters.DistilledData(0), "`num_per_class` must be"),
        (
            lambda s, t: train_once(classifier(s, hyperparameters.Dropout("layer7"))),
            "at the sites 'layer7', which this network",
        ),
        (
            lambda s, t: train_once(classifier(s, hyperparameters.Dropout("layer0", shape=(5,)))),
            r"shape \(5,\) do not fit",
        ),
        (lambda s, t: train_once(classifier(s, hyperparameters.LearnedAugmentation())), "even height and width"),
        (lambda s, t: language_model(t, hyperparameters.ExampleWeights()).init(jax.random.key(0)), "got a Corpus"),
        (lambda s, t: language_model(t, hyperparameters.WeightDecay(), 6), "the same vocabulary"),
        (lambda s, t: language_model(t, hyperparameters.WeightDecay(), length=20), "too few for windows of 20"),
        (lambda s, t: language_model(s, hyperparameters.WeightDecay()), "must be .* `(nestax.data.)?Corpus`"),
    ],
)
def test_refuses(unchecked, sets, texts, make, message):
    with pytest.raises(ValueError, match=message):
        make(sets, texts)


def train_once(problem):
    jax.eval_shape(lambda key: problem.losses(problem.init(key), nx.NestedSample(None, None, key)), jax.random.key(0))


def language_model(texts, family, vocabulary=5, length=4):
    model = networks.LSTMLanguageModel(vocabulary, width=2)
    return problems.NestedLanguageModel(texts[0], texts[1], model, family, length=length)


def test_bounded_values_are_a_stretched_sigmoid(sets):
    family = hyperparameters.Bounded(hyperparameters.WeightDecay("tensor", -3.0), -5.0, -1.0)
    problem = classifier(sets, family)
    (values, weights), _ = at(problem)
    assert_close(values, jax.tree.map(jnp.zeros_like, values))  # the middle
    moved = jax.tree.map(lambda x: x + 0.7, values)
    decay = np.exp(-5 + 4 / (1 + np.exp(-0.7)))
    expected = sum(decay * np.sum(np.asarray(w) ** 2) for w in jax.tree.leaves(weights))
    np.testing.assert_allclose(family.penalty(moved, weights), expected, rtol=1e-10)
    far = jax.tree.map(lambda x: x + 1e3, values)
    assert_close(family.inside(far), jax.tree.map(lambda x: jnp.full_like(x, -1.0), values))


def test_bounds_that_cannot_be_kept_are_refused(sets):
    with pytest.raises(ValueError, match="`low` must be below `high`, got 1"):
        hyperparameters.Bounded(hyperparameters.WeightDecay(), 1.0, 1.0)
    with pytest.raises(ValueError, match="`WeightDecay` starts at -4, which is not between -3 and -1"):
        classifier(sets, hyperparameters.Bounded(hyperparameters.WeightDecay("all"), -3.0, -1.0)).init(
            jax.random.key(0)
        )


def test_bounded_noise_acts_as_its_family_does(sets):
    """At a site, on weights and on examples, with the values that it stands for."""
    key, weights = jax.random.key(3), {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))}
    for inner in (hyperparameters.Dropout("layer0"), hyperparameters.DropConnect("all")):
        family = hyperparameters.Bounded(inner, -2.0, 3.0)
        value = jnp.asarray(0.3)
        pairs = ((family, value), (inner, family.inside(value)))
        assert_close(family.weights(value, weights, key), inner.weights(family.inside(value), weights, key))
        if inner.sites:
            ours, theirs = (f.activation(v, "layer0", jnp.ones((2, 3)), key) for f, v in pairs)
            assert_close(ours, theirs)
        assert family.shared(value) == inner.shared(value)
