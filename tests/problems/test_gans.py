"""GANs: losses by hand, gradients, densities, scores on constructed samples, and what they refuse."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
import scipy.special
import scipy.stats

from nestax import _gradients, catalogue, data, networks, problems

# Compiled as a whole: operation by operation, XLA would compile some hundred little programs here.
init = eqx.filter_jit(lambda problem, key: problem.init(key))
losses_at = eqx.filter_jit(lambda problem, players, sample: jnp.stack(problem.losses(players, sample)))
logits_at = eqx.filter_jit(lambda problem, players, sample: problem.logits(players, sample))
generate = eqx.filter_jit(lambda problem, players, key, num, *labels: problem.generate(players, key, num, *labels))
draw = eqx.filter_jit(lambda problem, key, num: problem.real(key, num))
nll = eqx.filter_jit(lambda problem, points: problem.negative_log_likelihood(points))
covers = eqx.filter_jit(lambda problem, points, **options: problem.mode_coverage(points, **options))
joint_gradient = eqx.filter_jit(_gradients.joint_gradient)
NUM = 40_000  # points, wherever the number does not matter: fewer shapes compile less
TINY = networks.MLP((3,), "relu", None)
NO_NETWORK: Any = (16, 16)
CENTRES = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)


def tiny(loss: Any = "non-saturating", **options):
    return problems.MixtureGAN(loss, TINY, TINY, **{"batch_size": 5, **options})


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return data.Dataset(rng.uniform(size=(20, 8, 8)).astype(np.float32), np.arange(20) % 3, "noise", 3)


def tiny_images(images, loss="non-saturating", **options):
    return problems.ImageGAN(images, loss, **{"width": 1, "latent_dim": 2, "batch_size": 4, **options})


def sizes(players):
    return [sum(leaf.size for leaf in jax.tree.leaves(player)) for player in players]


def numpy_mlp(params, inputs):
    z = np.asarray(inputs, np.float64)
    for i, layer in enumerate(params):
        z = z @ np.asarray(layer["weight"], np.float64) + np.asarray(layer["bias"], np.float64)
        z = np.maximum(z, 0) if i + 1 < len(params) else z
    return z


def expected_losses(loss, real, fake):
    """By the definitions with probabilities D = 1 / (1 + exp(-logit))."""
    p, q = scipy.special.expit(real), scipy.special.expit(fake)
    logistic = -np.mean(np.log(p)) - np.mean(np.log(1 - q))
    return {
        "non-saturating": (-np.mean(np.log(q)), logistic),
        "minimax": (np.mean(np.log(p)) + np.mean(np.log(1 - q)), logistic),
        "hinge": (-np.mean(fake), np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake))),
    }[loss]


# Losses.


@pytest.mark.parametrize("loss", sorted(problems.GAN_LOSSES))
def test_losses_by_hand(loss):
    real, fake = np.array([0.3, -1.2, 4.0]), np.array([-2.0, 0.5, 1.5])
    got = problems.GAN_LOSSES[loss]()(jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(got, expected_losses(loss, real, fake), rtol=1e-12)


def test_a_tiny_gan_by_hand(key):
    problem = tiny()
    players, sample = init(problem, key), problem.samples(key, 2)[1]
    real_key, fake_key = jax.random.split(sample)
    latent = jax.random.normal(fake_key, (5, 4))
    made = numpy_mlp(players[0], latent)
    np.testing.assert_allclose(generate(problem, players, fake_key, 5), made, rtol=1e-12)
    real, fake = (numpy_mlp(players[1], x)[:, 0] for x in (draw(problem, real_key, 5), made))
    expected = expected_losses("non-saturating", real, fake)
    np.testing.assert_allclose(losses_at(problem, players, sample), expected, rtol=1e-10)


def test_large_logits_stay_finite():
    for name in ("non-saturating", "minimax"):
        losses = problems.GAN_LOSSES[name]()(jnp.array([-1e4], jnp.float32), jnp.array([-1e4], jnp.float32))
        np.testing.assert_allclose(losses, {"non-saturating": (1e4, 1e4), "minimax": (-1e4, 1e4)}[name])


def test_only_minimax_is_zero_sum(key):
    real, fake = jax.random.normal(key, (2, 6))
    sums = {name: float(sum(loss()(real, fake))) for name, loss in problems.GAN_LOSSES.items()}
    assert sums.pop("minimax") == 0
    assert all(abs(value) > 0.1 for value in sums.values())


class Wasserstein(problems.AbstractGANLoss):
    """A loss of one's own, and linear in the logits."""

    def __call__(self, real, fake):
        return -jnp.mean(fake), jnp.mean(fake) - jnp.mean(real)


def test_any_loss_plugs_in(key):
    problem = tiny(Wasserstein())
    players = init(problem, key)
    generator, discriminator = losses_at(problem, players, key)
    logits = logits_at(problem, players, key)
    np.testing.assert_allclose((generator, discriminator), (-logits[1].mean(), logits[1].mean() - logits[0].mean()))


@pytest.mark.parametrize("family", ["mixture", "minimax", "images"])
def test_gradient_against_central_differences(family, images, key):
    """Every player's own gradient of its own loss, along random directions."""
    problem = {"mixture": tiny, "minimax": lambda: tiny("minimax"), "images": lambda: tiny_images(images)}[family]()
    players, sample = init(problem, key), problem.samples(key, 1)[0]
    gradients = joint_gradient(problem, players, sample)[1]
    step = 1e-6  # no unit has its kink within this distance
    for i, (own, gradient) in enumerate(zip(players, gradients)):
        flat, unravel = jax.flatten_util.ravel_pytree(own)
        for direction in np.random.default_rng(i).normal(size=(5, flat.size)):
            ends = [
                losses_at(problem, (*players[:i], unravel(flat + sign * step * direction), *players[i + 1 :]), sample)[
                    i
                ]
                for sign in (1, -1)
            ]
            slope = float(jax.flatten_util.ravel_pytree(gradient)[0] @ direction)
            assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * step), abs=1e-8)
            assert abs(slope) > 1e-5


# The mixture.


def test_parameter_counts():
    def count(problem):
        return sizes(jax.eval_shape(problem.init, jax.random.key(0)))

    assert count(catalogue.small_mixture_gan()) == [386, 337]
    assert count(problems.MixtureGAN()) == [
        4 * 256 + 256 + 3 * (256**2 + 256) + 2 * 256 + 2,
        2 * 256 + 256 + 3 * (256**2 + 256) + 256 + 1,
    ]
    problem = catalogue.small_mixture_gan("minimax", batch_size=7)
    assert isinstance(problem.loss, problems.MinimaxLoss)
    assert problem.batch_size == 7


def test_initialization_is_uniform_in_the_fan_in(key):
    generator, discriminator = init(problems.MixtureGAN(), key)
    for layer, size in ((generator[0], 4), (discriminator[0], 2), (generator[2], 256)):
        weight = np.asarray(layer["weight"])
        assert np.abs(weight).max() <= size**-0.5
        assert float(weight.std()) == pytest.approx((3 * size) ** -0.5, rel=0.05)
    assert not np.array_equal(generator[2]["weight"], discriminator[2]["weight"])


def test_centres_and_data(key):
    problem = tiny()
    np.testing.assert_allclose(problem.centres, CENTRES, atol=1e-15)
    points = np.asarray(draw(problem, key, NUM))
    offsets = points[:, None] - CENTRES[None]
    nearest = (offsets**2).sum(-1).argmin(1)
    # 5,000 per mode with a standard deviation of 66; within a mode isotropic with 0.05
    np.testing.assert_allclose(np.bincount(nearest), 5_000, atol=5 * 66)
    residuals = offsets[np.arange(len(points)), nearest]
    np.testing.assert_allclose(residuals.mean(0), 0, atol=5 * 0.05 / 200)
    np.testing.assert_allclose(np.cov(residuals.T), 0.05**2 * np.eye(2), atol=5 * 0.05**2 * 2**0.5 / 200)
    other = problems.MixtureGAN(generator=TINY, num_modes=3, std=0.01, radius=2.0)
    np.testing.assert_allclose(np.linalg.norm(other.real(key, 50), axis=1), 2, atol=0.06)


def test_the_grid(key):
    """The published one: sixteen centres at {-1.5, -0.5, 0.5, 1.5} squared."""
    problem = problems.MixtureGAN(generator=TINY, layout="grid", num_modes=16, std=0.02)
    axis = [-1.5, -0.5, 0.5, 1.5]
    np.testing.assert_allclose(problem.centres, list(itertools.product(axis, axis)))
    assert problem.mode_coverage(problem.real(key, 2_000)).num_modes == 16
    with pytest.raises(ValueError, match="must be a square number, such as 16, got 8"):
        problems.MixtureGAN(generator=TINY, layout="grid")


def test_negative_log_likelihood_against_scipy(key):
    problem = problems.MixtureGAN(generator=TINY, num_modes=5, std=0.4, radius=1.3)  # modes overlap
    points = np.asarray(jax.random.normal(key, (50, 2))) * 2
    centres = np.asarray(problem.centres)
    densities = [scipy.stats.norm.pdf(points, c, 0.4).prod(axis=1) for c in centres]
    np.testing.assert_allclose(
        problem.negative_log_likelihood(jnp.asarray(points)), -np.log(np.mean(densities, axis=0)).mean(), rtol=1e-12
    )


def test_what_the_likelihood_says_and_what_it_does_not(key):
    problem = tiny()
    best = np.log(8) + np.log(2 * np.pi * 0.05**2)
    np.testing.assert_allclose(nll(problem, jnp.tile(CENTRES, (NUM // 8, 1))), best, rtol=1e-10)  # better than data
    assert best == pytest.approx(-2.07, abs=0.01)
    entropy = float(nll(problem, draw(problem, key, NUM)))  # that of one Gaussian and of the choice of a mode
    assert entropy == pytest.approx(best + 1, abs=5 / np.sqrt(NUM))
    np.testing.assert_allclose(problem.entropy(key, NUM), entropy, rtol=1e-12)
    one_mode = CENTRES[:1] + 0.05 * jax.random.normal(key, (NUM, 2))
    assert float(nll(problem, one_mode)) == pytest.approx(entropy, abs=0.03)  # collapse is not seen
    at_origin = nll(problem, jnp.zeros((NUM, 2)))  # all modes alike
    np.testing.assert_allclose(at_origin, np.log(2 * np.pi * 0.05**2) + 200, rtol=1e-12)
    far = jnp.array([[1e3, 0.0]], jnp.float32)
    assert float(nll(problem, far)) == pytest.approx(999**2 / (2 * 0.05**2), rel=1e-4)  # no overflow


def test_mode_coverage_of_constructed_sets(key):
    problem = tiny()
    data_like = covers(problem, draw(problem, key, NUM))
    assert int(data_like.num_modes) == 8
    assert float(data_like.high_quality) == pytest.approx(1 - np.exp(-4.5), abs=5 * 0.0005)  # chi-square, 2 degrees
    np.testing.assert_allclose(data_like.fractions.sum(), data_like.high_quality, rtol=1e-12)

    def of(*parts, **options):
        """The coverage of 100 points: (number, point) pairs."""
        return covers(
            problem, jnp.asarray(np.concatenate([np.tile(point, (num, 1)) for num, point in parts])), **options
        )

    one = of((100, CENTRES[2]))
    assert int(one.num_modes) == 1
    np.testing.assert_allclose(one.fractions, np.eye(8)[2])
    none = of((100, np.zeros(2)))
    assert (int(none.num_modes), float(none.high_quality)) == (0, 0)
    assert int(of((100, np.full(2, np.nan))).num_modes) == 0
    assert float(of((100, np.array([1.1499, 0]))).high_quality) == pytest.approx(1)  # 3 standard deviations are 0.15
    assert float(of((100, np.array([1.1501, 0]))).high_quality) == 0
    # a mode with 1 of 100 points has 8 % of its share, one with 2 has 16 %
    for num, modes in ((1, 1), (2, 2)):
        parts = ((100 - num, CENTRES[0]), (num, CENTRES[4]))
        assert int(of(*parts).num_modes) == modes
        assert int(of(*parts, share=0.0).num_modes) == 2
    assert int(of(*((20, c) for c in CENTRES[:5]), share=0.0).num_modes) == 5  # not 8


def test_scores_compile_and_batch(key):
    sweep = jnp.array([0.05, 0.2])
    points = tiny().real(key, 30)

    @jax.jit
    def scores(std, points):
        problem = tiny(std=std)
        return problem.negative_log_likelihood(points), problem.mode_coverage(points).high_quality

    batched = jax.vmap(scores, in_axes=(0, None))(sweep, points)
    for i, std in enumerate((0.05, 0.2)):
        problem = tiny(std=std)
        np.testing.assert_allclose(batched[0][i], problem.negative_log_likelihood(points), rtol=1e-12)
        np.testing.assert_allclose(batched[1][i], problem.mode_coverage(points).high_quality, rtol=1e-12)


# Precision and seeds, for both families.


@pytest.mark.parametrize("family", ["mixture", "images"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_losses_follow_the_dtype_of_the_players(family, dtype, images, key):
    problem = tiny() if family == "mixture" else tiny_images(images)
    players = jax.tree.map(lambda x: x.astype(dtype), problem.init(key))
    losses, gradients = jax.eval_shape(_gradients.joint_gradient, problem, players, key)
    assert losses.dtype == jnp.float32  # never coarser than float32
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(gradients))
    made = jax.eval_shape(lambda p: problem.generate(p, key, 3), players)
    assert jax.tree.leaves(made)[0].dtype == dtype


@pytest.mark.parametrize("family", ["mixture", "images"])
def test_a_key_is_the_same_batch_in_every_precision(family, images, key):
    problem = tiny() if family == "mixture" else tiny_images(images)
    players = init(problem, key)
    single = losses_at(problem, jax.tree.map(lambda x: x.astype(jnp.float32), players), key)
    np.testing.assert_allclose(single, losses_at(problem, players, key), rtol=1e-5)


@pytest.mark.parametrize("family", ["mixture", "images"])
def test_default_precision_is_single_without_x64(family, images):
    with jax.enable_x64(False):
        problem = tiny() if family == "mixture" else tiny_images(images)
        players = jax.eval_shape(problem.init, jax.random.key(0))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(players))
        assert jax.eval_shape(problem.losses, players, jax.random.key(1))[0].dtype == jnp.float32


@pytest.mark.parametrize("family", ["mixture", "images"])
def test_many_seeds_at_once(family, images, key):
    problem = tiny() if family == "mixture" else tiny_images(images)
    keys = jax.random.split(key, 3)

    @eqx.filter_jit
    def many(problem, keys):
        return jax.vmap(lambda key: jnp.stack(problem.losses(problem.init(key), key)))(keys)

    losses = many(problem, keys)
    for i, k in enumerate(keys):
        np.testing.assert_allclose(losses[i], losses_at(problem, init(problem, k), k), rtol=1e-10)
    assert len({float(x) for x in losses[:, 0]}) == 3


# Images.


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((28, 28), [(28, 28, 1), (14, 14, 16), (7, 7, 32)]),
        ((32, 32, 3), [(32, 32, 3), (16, 16, 16), (8, 8, 32)]),
        ((14, 14), [(14, 14, 1), (7, 7, 32)]),
        ((8, 12, 1), [(8, 12, 1), (4, 6, 32)]),
    ],
)
def test_shapes_and_parameter_counts(shape, maps, key):
    dataset = data.Dataset(np.zeros((4, *shape), np.float32), np.arange(4), num_classes=10)
    problem = problems.ImageGAN(dataset)
    players = jax.eval_shape(problem.init, key)
    small = int(np.prod(maps[-1]))
    pairs = list(itertools.pairwise(maps))  # from larger to smaller
    up = sum(9 * b[2] * 4 * a[2] + 4 * a[2] for a, b in pairs)
    down = sum(16 * a[2] * b[2] + b[2] for a, b in pairs)
    assert sizes(players) == [(32 + 10 + 1) * small + up, down + (small + 1) * 11]
    made, labels = jax.eval_shape(lambda p: problem.generate(p, key, 6), players)
    assert made.shape == (6, *shape)
    assert labels.shape == (6,)


def naive_convolution(x, weight, stride):
    """Cross-correlation with zeros beyond the border, pixel by pixel; for a stride that divides the size."""
    size, out = weight.shape[0], x.shape[1] // stride
    before = ((out - 1) * stride + size - x.shape[1]) // 2
    padded = np.pad(x, ((0, 0), (before, size), (before, size), (0, 0)))
    z = np.zeros((x.shape[0], out, out, weight.shape[3]))
    for i in range(out):
        for j in range(out):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            z[:, i, j] = np.tensordot(window, weight, 3)
    return z


def test_networks_pixel_by_pixel(images, key):
    problem = tiny_images(images)
    players = init(problem, key)
    real_key, fake_key = jax.random.split(key)
    made, labels = (np.asarray(x) for x in generate(problem, players, fake_key, 4))
    generator, discriminator = jax.tree.map(np.asarray, players)
    latent = np.asarray(jax.random.normal(jax.random.split(fake_key)[0], (4, 2)))
    x = np.concatenate([latent, np.eye(3)[labels]], axis=1) @ generator["dense"]["weight"] + generator["dense"]["bias"]
    stage = generator["stages"][0]
    x = naive_convolution(np.maximum(x, 0).reshape(4, 4, 4, 2), stage["weight"], 1) + stage["bias"]
    expected = np.zeros((4, 8, 8))
    for row in range(2):
        for column in range(2):
            expected[:, row::2, column::2] = x[..., 2 * row + column]
    np.testing.assert_allclose(made, scipy.special.expit(expected), rtol=1e-10)

    def discriminate(x, labels):
        stage, dense = discriminator["stages"][0], discriminator["dense"]
        x = naive_convolution(2 * x[..., None] - 1, stage["weight"], 2) + stage["bias"]
        out = np.where(x > 0, x, 0.2 * x).reshape(4, -1) @ dense["weight"] + dense["bias"]
        return out[:, 0] + out[np.arange(4), 1 + labels]

    indices = np.asarray(jax.random.randint(real_key, (4,), 0, 20, jnp.int32))
    real, fake = logits_at(problem, players, key)
    np.testing.assert_allclose(fake, discriminate(made, labels), rtol=1e-10)
    drawn = np.asarray(images.images, np.float64)[indices], np.asarray(images.labels)[indices]
    np.testing.assert_allclose(real, discriminate(*drawn), rtol=1e-10)


def test_labels_that_are_asked_for(images, key):
    problem = tiny_images(images)
    players = init(problem, key)
    labels, others = jnp.array([2, 0, 1, 1], jnp.int32), jnp.array([2, 1, 1, 0], jnp.int32)
    made, got = generate(problem, players, key, 4, labels)
    np.testing.assert_array_equal(got, labels)
    other = generate(problem, players, key, 4, others)[0]
    np.testing.assert_array_equal(np.any(np.asarray(made != other), axis=(1, 2)), [False, True, False, True])
    drawn = generate(problem, players, key, 3_000)[1]  # uniform: 1,000 each with a standard deviation of 26
    np.testing.assert_allclose(np.bincount(np.asarray(drawn)), 1_000, atol=5 * 26)


def test_inception_score():
    score = jax.jit(problems.inception_score)
    eye = jnp.eye(6)
    np.testing.assert_allclose(score(jnp.full((18, 6), 1 / 6)), 1, rtol=1e-12)
    np.testing.assert_allclose(score(jnp.tile(jnp.array([[0.5, 0.2, 0.1, 0.1, 0.1, 0]]), (18, 1))), 1, rtol=1e-12)
    np.testing.assert_allclose(score(jnp.tile(eye, (3, 1))), 6, rtol=1e-12)  # with zeros, and no NaN
    np.testing.assert_allclose(score(jnp.tile(eye[:1], (18, 1))), 1, rtol=1e-12)  # sure, but always the same
    np.testing.assert_allclose(score(jnp.tile(eye[:2], (9, 1))), 2, rtol=1e-12)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(6), 18)
    divergences = scipy.stats.entropy(probabilities, probabilities.mean(0)[None], axis=1)
    np.testing.assert_allclose(score(jnp.asarray(probabilities)), np.exp(divergences.mean()), rtol=1e-12)


# Pictures.


def test_pictures(tmp_path):
    points = np.random.default_rng(0).normal(size=(20, 2))
    problems.plot_points(points, tmp_path / "new" / "points.png", reference=2 * points, title="points")
    problems.plot_points(jnp.asarray(points), tmp_path / "alone.png")
    assert (tmp_path / "new" / "points.png").stat().st_size > 1_000
    # black images on white: 5 in rows of 2 make 3 rows, with a white place at the end
    problems.plot_images(np.zeros((5, 8, 8)), tmp_path / "grey.png", columns=2)
    picture = matplotlib.image.imread(tmp_path / "grey.png")[..., :3].mean(axis=2)
    height, width = picture.shape
    for row in range(3):
        for column in range(2):
            shade = picture[int(height * (row + 0.5) / 3), int(width * (column + 0.5) / 2)]
            assert shade == (1 if (row, column) == (2, 1) else 0)
    problems.plot_images(np.ones((3, 8, 8, 3)), tmp_path / "colour.png", title="three")


# What they refuse.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images: tiny("non-saturatin"), "'non-saturatin'. Did you mean 'non-saturating'"),
        (lambda images: tiny(problems.HingeLoss), "`loss` must be .*`AbstractGANLoss`"),
        (lambda images: tiny(num_modes=0), "`num_modes` must be an integer of at least 1"),
        (lambda images: tiny(latent_dim=-1), "`latent_dim` must be"),
        (lambda images: tiny(batch_size=0), "`batch_size` must be"),
        (lambda images: tiny(std=0.0), "`std` must be a positive finite number, got 0.0"),
        (lambda images: tiny(std=jnp.ones(2)), "`std` must be"),
        (lambda images: tiny(radius=np.inf), "`radius` must be"),
        (
            lambda images: problems.MixtureGAN(generator=NO_NETWORK),
            r"`generator` must be an `AbstractArchitecture`.*\(16, 16\)",
        ),
        (lambda images: tiny_images(images.inputs), "must be .* `(nestax.data.)?Dataset`"),
        (lambda images: tiny_images(images, "hing"), "Did you mean 'hinge'"),
        (lambda images: tiny_images(images, width=0), "`width` must be"),
        (lambda images: tiny_images(images.live_pixels()), r"must hold images.*got examples of shape \(64,\)"),
        (lambda images: tiny_images(images.average_pool(2)), "even height and width of at least 8, got 4×4"),
        (
            lambda images: tiny_images(data.Dataset(np.zeros((3, 9, 8), np.float32), np.arange(3))),
            "even height and width of at least 8, got 9×8",
        ),
        (
            lambda images: tiny_images(images).generate(
                tiny_images(images).init(jax.random.key(0)), jax.random.key(0), 3, jnp.zeros(2, jnp.int32)
            ),
            r"`labels` must have shape \(3,\)",
        ),
        (lambda images: problems.plot_points(np.zeros((3, 3)), "x.png"), r"`points` must have shape \(num, 2\)"),
        (
            lambda images: problems.plot_images(np.zeros((3, 8, 8, 2)), "x.png"),
            r"1 or 3 channels, got \(3, 8, 8, 2\)",
        ),
        (lambda images: problems.plot_images(np.zeros((3, 8, 8)), "x.png", columns=0), "`columns` must be"),
    ],
)
def test_refuses(unchecked, images, make, message):
    with pytest.raises(ValueError, match=message):
        make(images)
