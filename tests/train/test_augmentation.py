"""Augmentation in the step: what the host leaves out, and independence of how a batch is split."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from opening import make_run
from train import helpers

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.options.options import read_options
from jaxvision.preflight.preflight import first_samples
from jaxvision.train.augmentation import host_transform
from jaxvision.train.device_augment import augment
from jaxvision.train.input import augment_key, mix_and_dropout_keys, update_key
from jaxvision.train.sharding import make_mesh, put_batch

ALL = dict(padding=2, horizontal_flip=0.5, vertical_flip=0.5, erasing=0.5)
seen = functools.partial(augment, preprocess_fn=helpers.preprocess, **ALL)


def config(**options):
    result = smoke.get_config()
    with result.unlocked():
        result.augment.mixup_alpha = 0.0
        result.augment.on_device = True
        result.update_from_flattened_dict(options)
    return result


def host(config, size):
    return host_transform(read_options(config).augment, size, interpolation="bilinear")


def test_keys_of_a_step_are_three():
    key = jax.random.key(3)
    key = update_key(key, jnp.int32(5))
    keys = [*mix_and_dropout_keys(key), augment_key(key)]
    assert len({tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}) == 3


def test_parts_of_a_batch_see_what_the_batch_sees():
    images, key = jnp.asarray(helpers.batch(0)["image"]), jax.random.key(1)
    whole = np.asarray(seen(key, images))
    parts = [seen(key, images[i : i + 4], first=i) for i in range(0, 16, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_devices_see_the_same_and_send_nothing_to_each_other():
    batch, key = helpers.batch(0), jax.random.key(1)
    one, eight = make_mesh(devices=jax.devices()[:1]), make_mesh(data=4, fsdp=2)
    run = jax.jit(seen)
    images = put_batch(batch, eight)["image"]
    np.testing.assert_array_equal(run(key, images), run(key, put_batch(batch, one)["image"]))
    compiled = run.lower(key, images).compile()
    assert compiled.output_shardings.is_equivalent_to(images.sharding, 4)
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f" {collective}(" not in compiled.as_text(), collective


def test_the_border_is_black_and_what_is_erased_has_the_mean_colour():
    white = jnp.full((64, 16, 16, 3), 255, jnp.uint8)
    options = dict(preprocess_fn=helpers.preprocess, padding=3, erasing=0.5)
    found = np.asarray(augment(jax.random.key(0), white, **options))
    pixels = (jnp.full((1, 1, 1, 3), x, jnp.uint8) for x in (0, 255))
    black, full = (float(helpers.preprocess(x).max()) for x in pixels)
    np.testing.assert_array_equal(np.unique(found), np.float32([black, 0.0, full]))


def test_a_step_does_not_depend_on_its_parts():
    """Accumulated in two parts, and on eight devices, it is the step of one."""
    whole, _ = helpers.run(2, tx=helpers.sgd(), augment=seen)
    plain, _ = helpers.run(2, tx=helpers.sgd())
    assert helpers.max_difference(whole.params, plain.params) > 1e-4
    for options in ({"accumulate_steps": 2}, {"mesh": make_mesh(data=8)}):
        parts, _ = helpers.run(2, tx=helpers.sgd(), augment=seen, **options)
        assert helpers.max_difference(whole.params, parts.params) < 1e-6


def test_every_step_draws_anew():
    state, step, mesh, _ = helpers.make(tx=helpers.sgd(0.0), augment=seen)
    losses = []
    for _ in range(3):
        state, metrics = step(state, put_batch(helpers.batch(0), mesh))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3


def test_the_host_leaves_out_what_the_device_does():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    options = {"augment.crop": "pad", "augment.erasing": 1.0, "augment.horizontal_flip": 1.0}
    transform = host(config(**options), 40)
    np.testing.assert_array_equal(transform(image, np.random.default_rng(0)), image)
    # What can only be done on the host stays there.
    options = {"augment.crop": "random_resized", "augment.policy": "trivial_augment"}
    ours = host(config(**options), 24)(image, np.random.default_rng(1))
    options |= {"augment.on_device": False, "augment.horizontal_flip": 0.0}
    expected = host(config(**options), 24)(image, np.random.default_rng(1))
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment.preset": "basic", "augment.crop": "random_resized"}, "decides all operations"),
        ({"augment.crop": "pad", "augment.rotation": 5.0}, "after config.augment.rotation"),
        ({"augment.crop": "pad", "augment.color_jitter": (0.1, 0.0, 0.0, 0.0)}, "color_jitter"),
        ({"augment.erasing": 1.5}, "erasing is a probability"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        host(config(**options), 24)


def test_samples_of_preflight_show_it():
    run = make_run(config(**{"augment.horizontal_flip": 1.0}))
    images, _ = first_samples(run)
    with contextlib.closing(run.train_batches()) as batches:
        for step in range(2):
            plain = next(batches)["image"][:5]
            np.testing.assert_array_equal(images[step], plain[:, :, ::-1])
