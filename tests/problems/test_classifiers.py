"""Classifier, its architectures, and logistic regression."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from nestax import _gradients, _problem, catalogue, data, networks, problems
from nestax.problems._supervised import draw_batch

# Compilation takes most of the time here, so few shapes are used, dtypes are looked at without computing anything
# (`jax.eval_shape`), and gradients are compiled as a whole.
SMALL = (5, 3)
joint_gradient = eqx.filter_jit(_gradients.joint_gradient)
loss_at = eqx.filter_jit(lambda problem, players, sample: problem.losses(players, sample)[0])


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(0)
    return data.Dataset(rng.uniform(size=(130, 2, 3)).astype(np.float32), rng.integers(0, 4, 130), "toy", 4)


def init(problem, key):
    return _problem.check_players(problem.init(key))


def numpy_loss(params, inputs, labels, activation):
    """The mean cross-entropy by an independent formula."""
    z = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    for i, layer in enumerate(params):
        z = z @ np.asarray(layer["weight"]) + np.asarray(layer["bias"])
        z = activation(z) if i + 1 < len(params) else z
    return np.mean(np.asarray(scipy.special.logsumexp(z, axis=1)) - z[np.arange(len(labels)), labels])


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("make", "num"), [(catalogue.mlp_orig, 15_910), (catalogue.mlp_relu, 15_910), (catalogue.mlp_deeper, 16_330)]
)
def test_parameter_counts_on_mnist(make, num, key):
    params = jax.eval_shape(lambda: make().init(key, (28, 28), 10))
    assert count(params) == num
    assert all(set(layer) == {"weight", "bias"} for layer in params)
    assert params[0]["weight"].shape == (784, 20)


def test_init_statistics(key):
    params = networks.MLP(hidden=(50, 2_000)).init(key, (8, 8), 10)
    for leaf in (params[0]["weight"], params[1]["weight"], params[1]["bias"], params[2]["weight"]):
        leaf = np.asarray(leaf)
        size = leaf.size
        assert float(leaf.mean()) == pytest.approx(0, abs=5 * 0.01 / np.sqrt(size))
        assert float(leaf.std()) == pytest.approx(0.01, rel=5 / np.sqrt(2 * size))
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert len(np.unique(flat)) == len(flat)  # no key is used twice
    large, small = (
        np.asarray(networks.MLP((3,), init_scale=scale).init(key, (2,), 2)[0]["weight"]) for scale in (1.0, 0.01)
    )
    np.testing.assert_allclose(large, 100 * small)


def test_draws_of_the_normal_initialization(key):
    # the order of the keys is part of the recorded results: layer by layer, weights before biases
    params = networks.MLP((3,)).init(key, (2,), 2)
    for layer, layer_key, shape in zip(params, jax.random.split(key, 2), [(2, 3), (3, 2)]):
        weight_key, bias_key = jax.random.split(layer_key)
        np.testing.assert_array_equal(layer["weight"], 0.01 * jax.random.normal(weight_key, shape))
        np.testing.assert_array_equal(layer["bias"], 0.01 * jax.random.normal(bias_key, shape[1:]))


def test_initialization_of_pytorch(key):
    mlp = networks.MLP(hidden=(50, 2_000), init_scale=None)
    params = mlp.init(key, (8, 8), 10)
    for layer, fan_in in zip(params, (64, 50, 2_000)):
        for leaf in (np.asarray(layer["weight"]), np.asarray(layer["bias"])):
            bound = fan_in**-0.5
            assert np.abs(leaf).max() <= bound
            if leaf.size > 500:  # uniform: its ends are reached and its standard deviation is bound / sqrt(3)
                assert leaf.min() < -0.98 * bound
                assert leaf.max() > 0.98 * bound
                assert float(leaf.std()) == pytest.approx(bound / np.sqrt(3), rel=0.05)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert len(np.unique(flat)) == len(flat)
    with jax.enable_x64(False):
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(catalogue.mlp_2d().init(jax.random.key(0), (2,), 2)))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sigmoid", scipy.special.expit),
        ("relu", lambda z: np.maximum(z, 0)),
        ("tanh", np.tanh),
        ("elu", lambda z: np.where(z > 0, z, np.expm1(z))),
        ("softplus", lambda z: np.logaddexp(z, 0)),
    ],
)
def test_loss_against_numpy(name, function, toy, key):
    problem = problems.Classifier(toy, networks.MLP(SMALL, name, init_scale=1.0))
    players = init(problem, key)
    expected = numpy_loss(players[0], toy.inputs, toy.labels, function)
    np.testing.assert_allclose(problem.full_loss(players), expected, rtol=1e-10)
    sample = problem.samples(key, 2)[1]
    inputs, labels = draw_batch(toy, sample, 128)
    expected = numpy_loss(players[0], inputs, labels, function)
    np.testing.assert_allclose(loss_at(problem, players, sample), expected, rtol=1e-10)


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_gradient_against_central_differences(activation, toy, key):
    problem = problems.Classifier(toy, networks.MLP(SMALL, activation, init_scale=1.0))
    players, sample = init(problem, key), problem.samples(key, 1)[0]
    flat, unravel = jax.flatten_util.ravel_pytree(players)
    step = 1e-5  # no unit of the ReLU network has its kink within this distance

    def loss(x):
        return problem.losses(unravel(x), sample)[0]

    numeric = jax.jit(jax.vmap(lambda d: (loss(flat + d) - loss(flat - d)) / (2 * step)))(step * jnp.eye(flat.size))
    gradient = jax.flatten_util.ravel_pytree(joint_gradient(problem, players, sample)[1])[0]
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_initial_loss_is_that_of_guessing(key):
    problem = problems.Classifier(data.digits(), catalogue.mlp_deeper())
    assert float(problem.full_loss(problem.init(key))) == pytest.approx(np.log(10), abs=0.01)


def test_batches_are_fixed_by_the_key(toy, key):
    toy = toy.take(slice(30))
    inputs, labels = draw_batch(toy, key, 1000)
    again, _ = draw_batch(toy, key, 1000)
    np.testing.assert_array_equal(inputs, again)
    assert not np.array_equal(inputs, draw_batch(toy, jax.random.key(1), 1000)[0])
    rows = {tuple(row): int(label) for row, label in zip(np.asarray(toy.inputs), toy.labels)}
    drawn = [tuple(row) for row in np.asarray(inputs)]
    assert all(rows[row] == int(label) for row, label in zip(drawn, labels))  # inputs and labels stay together
    # with replacement and uniform: 1000 draws of 30 rows, so 33 each with a standard deviation of 5.7
    counts = np.array([drawn.count(row) for row in rows])
    assert counts.min() > 8
    assert counts.max() < 62


def test_batches_do_not_depend_on_the_precision(toy, key):
    double, _ = draw_batch(toy, key, 128)
    with jax.enable_x64(False):
        single, _ = draw_batch(toy, key, 128)
    np.testing.assert_array_equal(double, single)


def test_samples_are_keys_or_none(toy, key):
    problem = problems.Classifier(toy, networks.MLP(SMALL))
    assert problem.batch_size == 128
    assert problem.samples(key, 7).shape == (7,)
    with pytest.raises(ValueError, match="needs a PRNG key as its sample, got None"):
        problem.losses(problem.init(key), None)
    whole = problems.Classifier(toy, networks.MLP(SMALL), batch_size=None)
    assert whole.samples(key, 7) is None
    players = whole.init(key)
    np.testing.assert_array_equal(whole.losses(players, None)[0], problem.full_loss(players))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_data_follow_the_dtype_of_the_parameters(dtype, toy, key):
    problem = problems.Classifier(toy, networks.MLP(SMALL))
    players = jax.tree.map(lambda x: x.astype(dtype), init(problem, key))
    losses, gradient = jax.eval_shape(_gradients.joint_gradient, problem, players, key)
    assert losses.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)  # never coarser than float32
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(gradient))
    assert jax.eval_shape(problem.accuracy, players).shape == ()


def test_default_precision_is_single_without_x64(toy):
    with jax.enable_x64(False):
        problem = problems.Classifier(toy, networks.MLP(SMALL))
        players = jax.eval_shape(problem.init, jax.random.key(0))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(players))
        assert jax.eval_shape(problem.losses, players, jax.random.key(1))[0].dtype == jnp.float32


def test_jit_grad_and_vmap_over_keys(toy, key):
    problem = problems.Classifier(toy, networks.MLP(SMALL))
    keys = jax.random.split(key, 3)

    @eqx.filter_jit
    def losses(problem, keys):
        return jax.vmap(lambda key: problem.losses(problem.init(key), key)[0])(keys)

    expected = [loss_at(problem, init(problem, k), k) for k in keys]
    np.testing.assert_allclose(losses(problem, keys), jnp.stack(expected), rtol=1e-10)


def test_a_batch_of_problems_is_a_loop_over_them(toy, key):
    scales = jnp.array([0.5, 1.0, 2.0])

    def make(scale):
        dataset = data.Dataset(toy.images * scale.astype(jnp.float32), toy.labels, num_classes=4)
        return problems.Classifier(dataset, networks.MLP(SMALL))

    def run(scale):
        problem = make(scale)
        losses, gradient = joint_gradient(problem, problem.init(key), key)
        return losses, gradient, problem.accuracy(problem.init(key))

    batched = jax.jit(jax.vmap(run))(scales)
    run = jax.jit(run)
    for i, scale in enumerate(scales):
        single = run(scale)
        jax.tree.map(lambda b, s: np.testing.assert_allclose(b[i], s, rtol=1e-6, atol=1e-9), batched, single)  # noqa: B023


def test_accuracy_by_hand(toy):
    problem = problems.Classifier(toy, networks.MLP(hidden=()))
    always_two = ({"weight": jnp.zeros((6, 4)), "bias": jnp.array([0.0, 0.0, 1.0, 0.0])},)
    assert float(problem.accuracy((always_two,))) == pytest.approx(np.mean(np.asarray(toy.labels) == 2))
    other = data.Dataset(toy.images[:3], np.array([2, 2, 0]), num_classes=4)
    assert float(problem.accuracy((always_two,), other)) == pytest.approx(2 / 3)
    expected = (2 * (np.log(3 + np.e) - 1) + np.log(3 + np.e)) / 3
    assert float(problem.full_loss((always_two,), other)) == pytest.approx(expected)


class ByPixel(networks.AbstractArchitecture):
    """Needs the shape of the images: one logit per row of pixels."""

    def init(self, key, input_shape, num_classes):
        assert input_shape == (2, 3)
        return jnp.zeros((3, num_classes // 2))

    def __call__(self, params, inputs):
        assert inputs.shape[1:] == (2, 3)
        return (inputs @ params).reshape(inputs.shape[0], -1)


def test_any_architecture_plugs_in_and_sees_image_shapes(toy, key):
    problem = problems.Classifier(toy, ByPixel())
    assert float(problem.losses(problem.init(key), key)[0]) == pytest.approx(np.log(4))
    assert float(problem.full_loss(problem.init(key))) == pytest.approx(np.log(4))


def test_gradient_descent_learns_digits(key):
    # independent of the library's optimizers: 300 steps of plain gradient descent reach more than 85 %
    problem = problems.Classifier(data.digits(), catalogue.mlp_orig())

    @eqx.filter_jit
    def train(problem, players, keys):
        def step(players, sample):
            _, gradient = joint_gradient(problem, players, sample)
            return jax.tree.map(lambda p, g: p - 3 * g, players, gradient), None

        return jax.lax.scan(step, players, keys)[0]

    players = train(problem, problem.init(key), problem.samples(key, 300))
    assert float(problem.accuracy(players)) > 0.85


def make_logistic(toy, **options):
    return problems.LogisticRegression(toy.inputs, toy.labels, **options)


def test_logistic_loss_and_penalty(toy, key):
    problem = make_logistic(toy, l2=0.3)
    (params,) = jax.tree.map(lambda x: 50 * x, problem.init(key))
    squares = sum(float((x**2).sum()) for x in jax.tree.leaves(params))
    expected = numpy_loss([params], toy.inputs, toy.labels, None) + 0.15 * squares
    np.testing.assert_allclose(problem.losses((params,), None)[0], expected, rtol=1e-10)
    assert problem.samples(key, 5) is None
    assert count(catalogue.by_name("logistic-digits").init(key)) == 650


def test_logistic_minibatch(toy, key):
    problem = make_logistic(toy, l2=0.0, batch_size=128)
    players, sample = init(problem, key), problem.samples(key, 2)[0]
    inputs, labels = draw_batch(problem.dataset, sample, 128)
    np.testing.assert_allclose(
        problem.losses(players, sample)[0], numpy_loss([players[0]], inputs, labels, None), rtol=1e-10
    )
    np.testing.assert_allclose(problem.full_loss(players), make_logistic(toy, l2=0.0).losses(players, None)[0])


def test_logistic_is_as_convex_and_smooth_as_it_says(toy, key):
    problem = make_logistic(toy, l2=0.01)
    flat, unravel = jax.flatten_util.ravel_pytree(init(problem, key))
    hessian = jax.jit(jax.hessian(lambda x: problem.losses(unravel(x), None)[0]))(flat)
    eigenvalues = np.linalg.eigvalsh(hessian)
    largest = float(jnp.sum(toy.inputs**2, axis=1).max())
    assert eigenvalues[0] >= 0.01 - 1e-9
    assert eigenvalues[-1] <= 0.01 + (largest + 1) / 2


def test_logistic_minimum_is_unique(toy):
    problem = make_logistic(toy, l2=0.1)
    flat, unravel = jax.flatten_util.ravel_pytree(problem.init(jax.random.key(0)))
    loss = jax.jit(jax.value_and_grad(lambda x: problem.losses(unravel(x), None)[0]))
    ends = [
        scipy.optimize.minimize(lambda x: [np.asarray(y) for y in loss(x)], start, jac=True, tol=1e-10).x
        for start in (flat, flat + 3)
    ]
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)
    assert float(problem.accuracy(unravel(jnp.asarray(ends[0])))) > 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda toy: networks.MLP((0,)), r"`hidden\[i\]` must be an integer of at least 1, got 0"),
        (lambda toy: networks.MLP((2.5,)), r"`hidden\[i\]`"),  # pyright: ignore[reportArgumentType]
        (lambda toy: networks.MLP(activation="sigmoyd"), "'sigmoyd'. Did you mean 'sigmoid'"),
        (lambda toy: networks.MLP(init_scale=-1.0), "`init_scale` must be"),
        (lambda toy: networks.MLP(init_scale=jnp.ones(2)), "`init_scale` must be"),
        (lambda toy: problems.Classifier(toy.inputs, networks.MLP()), "must be .* `(nestax.data.)?Dataset`"),
        (lambda toy: problems.Classifier(toy, "mlp"), "must be an `AbstractArchitecture`.*got 'mlp'"),  # pyright: ignore[reportArgumentType]
        (lambda toy: problems.Classifier(toy, networks.MLP(), batch_size=0), "`batch_size` must be"),
        (
            lambda toy: problems.Classifier(toy, networks.MLP(), batch_size=131),
            "is 131, but there are only 130 examples",
        ),
        (lambda toy: problems.Classifier(toy, networks.MLP(), batch_size=1.5), "`batch_size` must be"),  # pyright: ignore[reportArgumentType]
        (lambda toy: make_logistic(toy, l2=-1.0), "`l2` must be"),
        (lambda toy: make_logistic(toy, l2=jnp.nan), "`l2` must be"),
        (lambda toy: make_logistic(toy, batch_size=-1), "`batch_size` must be"),
        (lambda toy: problems.LogisticRegression(toy.inputs * jnp.nan, toy.labels), "780 NaN or infinite"),
        (lambda toy: make_logistic(toy, num_classes=2), "must lie in 0, ..., 1"),
    ],
)
def test_refuses(unchecked, toy, make, message):
    with pytest.raises(ValueError, match=message):
        make(toy)


def test_test_data_must_fit(toy, key):
    problem = problems.Classifier(toy, networks.MLP(SMALL))
    with pytest.raises(ValueError, match=r"\(\(8, 8\), 10\), but the problem was made for \(\(2, 3\), 4\)"):
        problem.accuracy(problem.init(key), data.digits())
