import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvision.train.mix import mix

CLASSES = 7
BOTH = {
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "mix_probability": 1.0,
    "cutmix_probability": 0.5,
}
MIXUP = BOTH | {"cutmix_alpha": 0.0}
CUTMIX = BOTH | {"mixup_alpha": 0.0}


def make_batch(batch=5, height=8, width=6):
    """Returns images in which every value occurs once, so that a pixel tells where it is from."""
    count = batch * height * width * 3
    images = np.arange(count, dtype=np.float32).reshape(batch, height, width, 3) / 64 - 1
    return images, np.arange(batch, dtype=np.int32) % CLASSES


def jitted(**options):
    return jax.jit(functools.partial(mix, num_classes=CLASSES, **options))


def many(function, images, labels, count=400):
    """Returns the mixed batches and labels of `count` keys."""
    keys = jax.random.split(jax.random.key(0), count)
    outputs = jax.jit(jax.vmap(function, (0, None, None)))(keys, images, labels)
    return [np.asarray(output) for output in outputs]


def own_share(soft):
    """Returns the share of each example's own label, for batches whose labels are 0, 1, 2, ..."""
    return np.diagonal(soft, axis1=-2, axis2=-1)


@pytest.mark.parametrize("batch", [2, 5])
def test_cutmix_pixels_come_from_the_image_or_its_partner(batch):
    images, labels = make_batch(batch)
    mixed, soft = many(jitted(**CUTMIX), images, labels, count=100)
    partner = np.roll(images, 1, axis=0)
    for one, label in zip(mixed, soft, strict=True):
        own = (one == images).all(axis=-1)  # bit for bit
        other = (one == partner).all(axis=-1)
        assert (own ^ other).all()
        assert (own == own[0]).all()  # one box for the batch
        rows, columns = other[0].any(axis=1), other[0].any(axis=0)
        assert (other[0] == np.outer(rows, columns)).all()  # a rectangle
        for inside in (rows, columns):
            assert np.abs(np.diff(inside.astype(int))).sum() <= 2  # without a gap
        np.testing.assert_allclose(own_share(label), own.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(soft.sum(-1), 1.0, atol=1e-6)


def test_cutmix_boxes_are_not_all_alike():
    images, labels = make_batch()
    mixed, soft = many(jitted(**CUTMIX), images, labels)
    inside = (mixed[:, 0] != images[0]).any(axis=-1)  # [count, height, width]
    # Every pixel is hit, the centre more often than a corner, where a box is cut.
    frequency = inside.mean(axis=0)
    assert frequency.min() > 0.1
    assert frequency[4, 3] > 1.3 * frequency[0, 0]
    # The drawn share is uniform for alpha = 1; the border leaves more of the image than was drawn.
    assert 0.55 < own_share(soft)[:, 0].mean() < 0.75


def test_mixup_is_the_blend_its_labels_say():
    images, labels = make_batch()
    mixed, soft = many(jitted(**MIXUP), images, labels, count=50)
    share = own_share(soft)
    assert (share == share[:, :1]).all()  # one share for the batch
    pixels = share[..., None, None, None]
    expected = pixels * images + (1 - pixels) * np.roll(images, 1, axis=0)
    np.testing.assert_allclose(mixed, expected, atol=2e-6)
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    blend = share[..., None] * one_hot + (1 - share[..., None]) * np.roll(one_hot, 1, axis=0)
    np.testing.assert_allclose(soft, blend, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_share_is_beta_distributed(alpha):
    images, labels = make_batch(2, 1, 1)
    _, soft = many(jitted(**(MIXUP | {"mixup_alpha": alpha})), images, labels, count=4000)
    share = own_share(soft)[:, 0]
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(share.mean() - 0.5) < 4 * np.sqrt(variance / 4000)
    assert abs(share.var() - variance) < 0.01


@pytest.mark.parametrize(
    "options",
    [
        BOTH | {"mixup_alpha": 0.0, "cutmix_alpha": 0.0},
        BOTH | {"mix_probability": 0.0},
    ],
    ids=["both alphas 0", "probability 0"],
)
def test_off_is_the_identity(options):
    images, labels = make_batch()
    mixed, soft = many(jitted(**options), images, labels, count=20)
    np.testing.assert_array_equal(mixed, np.broadcast_to(images, mixed.shape))
    np.testing.assert_array_equal(soft, np.broadcast_to(np.eye(CLASSES)[labels], soft.shape))


@pytest.mark.parametrize(
    ("changes", "mixup", "cutmix"),
    [
        ({}, 0.5, 0.5),
        ({"cutmix_probability": 0.2}, 0.8, 0.2),
        ({"mix_probability": 0.6}, 0.3, 0.3),
        ({"mixup_alpha": 0.0, "cutmix_probability": 0.2}, 0.0, 1.0),
        ({"cutmix_alpha": 0.0, "cutmix_probability": 0.9}, 1.0, 0.0),
    ],
)
def test_how_often_each_is_used(changes, mixup, cutmix):
    images, labels = make_batch(2, 32, 32)
    count = 500
    mixed, _ = many(jitted(**(BOTH | changes)), images[..., :1], labels, count)
    untouched = (mixed == images[..., :1]).all(axis=(1, 2, 3, 4))
    partner = np.roll(images[..., :1], 1, axis=0)
    copied = ((mixed == images[..., :1]) | (mixed == partner)).all(axis=(1, 2, 3, 4))
    seen = {"mixup": np.mean(~copied), "cutmix": np.mean(copied & ~untouched)}
    # Four standard errors of 500 draws; a tiny cutmix box may round to nothing.
    tolerance = 4 * 0.5 / np.sqrt(count)
    assert abs(seen["mixup"] - mixup) <= (tolerance if 0 < mixup < 1 else 0.0)
    assert abs(seen["cutmix"] - cutmix) <= (tolerance if 0 < cutmix < 1 else 0.01)


def test_keeps_the_dtype_and_the_inputs():
    images, labels = make_batch()
    before = images.copy()
    mixed, soft = jitted(**BOTH)(jax.random.key(1), jnp.asarray(images, jnp.bfloat16), labels)
    assert mixed.dtype == jnp.bfloat16 and soft.dtype == jnp.float32
    np.testing.assert_array_equal(images, before)


def test_one_trace_serves_every_key_and_rate():
    traces = []

    @jax.jit
    def step(key, images, labels, options):
        traces.append(1)
        return mix(key, images, labels, num_classes=CLASSES, **options)

    images, labels = make_batch()
    partner = np.roll(images, 1, axis=0)
    for seed, (options, blends) in enumerate([(MIXUP, True), (CUTMIX, False), (MIXUP, True)]):
        mixed, _ = step(jax.random.key(seed), images, labels, jax.tree.map(jnp.float32, options))
        mixed = np.asarray(mixed)
        assert (mixed != images).any()
        assert ((mixed != images) & (mixed != partner)).any() == blends
    assert len(traces) == 1


@pytest.mark.parametrize("options", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_sharded_batch_equals_one_device(options):
    images, labels = make_batch(16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    replicated = NamedSharding(mesh, PartitionSpec())
    one = jitted(**options)(jax.random.key(3), images, labels)
    arguments = (
        jax.device_put(jax.random.key(3), replicated),
        *jax.device_put((images, labels), sharding),
    )
    compiled = jitted(**options).lower(*arguments).compile()
    eight = compiled(*arguments)
    assert eight[0].sharding.is_equivalent_to(sharding, ndim=4)
    assert "all-gather" not in compiled.as_text()  # the batch stays where it is
    assert (one[0] != images).any()
    np.testing.assert_allclose(eight[0], one[0], atol=2e-6)
    np.testing.assert_allclose(eight[1], one[1], atol=1e-6)


@pytest.mark.parity
def test_cutmix_boxes_are_distributed_as_in_timm():
    from timm.data.mixup import cutmix_bbox_and_lam

    images, labels = make_batch(2, 16, 12)
    _, soft = many(jitted(**CUTMIX), images, labels, count=4000)
    ours = own_share(soft)[:, 0]
    rng = np.random.default_rng(0)
    state = np.random.get_state()
    np.random.seed(0)
    theirs = [cutmix_bbox_and_lam((2, 3, 16, 12), share)[1] for share in rng.random(4000)]
    np.random.set_state(state)
    # Two samples of 4,000: their distributions differ by less than 0.043 in 99.9 % of trials.
    grid = np.linspace(0, 1, 101)
    distance = np.abs(
        np.searchsorted(np.sort(ours), grid) - np.searchsorted(np.sort(theirs), grid)
    ).max()
    assert distance / 4000 < 0.043
