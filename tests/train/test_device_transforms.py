"""Chains of operations on the devices: keys, independence of the split, and what they draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from train.test_device_ops import pictures

from jaxvision.data.augment import color, crops, geometry, jitter, noise, policies
from jaxvision.data.augment.auto_augment import AutoAugment
from jaxvision.data.augment.compose import OneOf
from jaxvision.train import device_ops
from jaxvision.train.device_transforms import _ORDER, augment, runs_on_device
from jaxvision.train.sharding import make_mesh

EVERY = (
    crops.RandomResizedCrop((16, 16)),
    crops.PadCrop((16, 16), 2),
    geometry.HorizontalFlip(0.5),
    geometry.VerticalFlip(0.5),
    geometry.Rotation(20.0),
    geometry.ShiftScaleRotate(),
    policies.RandAugment(1, 9),
    policies.TrivialAugment("bilinear"),
    AutoAugment("svhn"),
    policies.three_augment(),
    jitter.ColorJitter(0.2, 0.2, 0.2, 0.1),
    jitter.Grayscale(0.2),
    noise.GaussianBlur(),
    noise.GaussianNoise(),
    policies.AugMix(),
    noise.RandomErasing(0.5),
)


def images(batch=16, side=24):
    rng = np.random.default_rng(0)
    natural = pictures(side, side)[2]
    return np.stack([np.roll(natural, rng.integers(side), axis=1) for _ in range(batch)])


def as_float(images):
    return images.astype(jnp.float32)


def run(key, images, operations, first=0):
    return augment(key, images, preprocess_fn=as_float, operations=operations, first=first)


def test_every_operation_has_a_place_of_its_own():
    assert all(map(runs_on_device, EVERY))
    assert {type(one) for one in EVERY} == set(_ORDER) and len(set(_ORDER)) == len(_ORDER)


def test_the_first_keys_are_those_of_runs_before_there_were_more():
    key = jax.random.key(7)
    for place, expected in enumerate(jax.random.split(key, 4)):
        found = jax.random.fold_in(key, place)
        assert (jax.random.key_data(found) == jax.random.key_data(expected)).all()


def test_neither_the_split_of_a_batch_nor_devices_change_an_image():
    """Of a batch on eight devices, which send each other nothing, and of its halves on one."""
    # What takes long to compile, and is made of the code of the others.
    slow = (policies.TrivialAugment, AutoAugment, policies.AugMix, OneOf, geometry.ShiftScaleRotate)
    chain = tuple(one for one in EVERY if not isinstance(one, slow))
    whole = jax.jit(functools.partial(run, operations=chain))
    mesh = make_mesh(data=4, fsdp=2)
    key = jax.device_put(jax.random.key(1), NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(images(), NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    compiled = whole.lower(key, batch).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f" {collective}(" not in compiled.as_text(), collective
    expected = np.asarray(compiled(key, batch))
    assert expected.shape == (16, 16, 16, 3) and len({x.tobytes() for x in expected}) == 16
    for i in (0, 8):
        found = whole(jax.random.key(1), images()[i : i + 8], first=jnp.int32(i))
        np.testing.assert_array_equal(found, expected[i : i + 8])


CERTAIN = {
    "grayscale": (jitter.Grayscale(1.0), color.grayscale),
    "blur": (
        noise.GaussianBlur(3, (0.7, 0.7), 1.0),
        functools.partial(noise.gaussian_blur, sigma=0.7, kernel_size=3),
    ),
    "one of": (
        OneOf((jitter.Solarize(100.0),)),
        functools.partial(color.solarize, threshold=100.0),
    ),
    "none of": (OneOf((jitter.Solarize(100.0),), probability=0.0), lambda image: image),
    "no rotation": (geometry.Rotation(0.0), lambda image: image),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_what_is_certain_is_the_hosts(name):
    operation, host = CERTAIN[name]
    batch = images(4)
    found = run(jax.random.key(0), jnp.asarray(batch), (operation,))
    np.testing.assert_array_equal(found, np.stack([host(image) for image in batch]))


def test_jitter_makes_the_adjustments_in_the_order_that_is_drawn():
    """One after the other, as the host's with the same factors in the same order."""
    image = pictures(24, 24)[2]
    hosts = {
        "brightness": color.adjust_brightness,
        "contrast": color.adjust_contrast,
        "saturation": color.adjust_saturation,
        "hue": color.adjust_hue,
    }
    strengths = dict(brightness=1.2, contrast=0.7, saturation=1.4, hue=0.07)
    given = {name: jnp.float32(value) for name, value in strengths.items()}
    ours, theirs = jnp.asarray(image), image
    for place in (2, 0, 3, 1):
        name = list(strengths)[place]
        ours = device_ops.adjust(ours, given, jnp.int32(place))
        theirs = hosts[name](theirs, float(np.float32(strengths[name])))
        assert np.abs(np.asarray(ours, int) - theirs).max() <= 1
        ours = jnp.asarray(theirs)


@pytest.mark.parametrize(
    "ours",
    [
        jitter.ColorJitter(0.4, 0.3, 0.2, 0.1),
        geometry.Rotation(30.0),
        geometry.ShiftScaleRotate(),
        noise.GaussianNoise(),
        noise.GaussianBlur(),
        policies.three_augment(),
        policies.AugMix(),
    ],
    ids=lambda x: type(x).__name__,
)
def test_draws_have_the_hosts_distribution(ours):
    """Of how far an image moves from itself, and of its mean."""
    image = pictures(16, 16)[2]
    batch = jnp.broadcast_to(jnp.asarray(image), (600, 16, 16, 3))
    found = np.asarray(
        jax.jit(functools.partial(run, operations=(ours,)))(jax.random.key(0), batch)
    )
    rng = np.random.default_rng(0)
    host = np.stack([ours(image, rng) for _ in range(600)]).astype(np.float32)
    for statistic in (lambda x: np.abs(x - image).mean((1, 2, 3)), lambda x: x.mean((1, 2, 3))):
        a, b = np.sort(statistic(found)), np.sort(statistic(host))
        grid = np.concatenate([a, b])
        gap = np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")
        assert np.abs(gap).max() / 600 < 0.1  # Kolmogorov-Smirnov: once in 200 times
