"""Augmentation in the step: what the host leaves out, and independence of how a batch is split."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from opening import make_run, train
from train import helpers

from configs import smoke
from jaxvision.data.augment.crops import PadCrop
from jaxvision.data.augment.geometry import HorizontalFlip, VerticalFlip
from jaxvision.data.augment.noise import RandomErasing
from jaxvision.data.decode import decode_image, open_photo
from jaxvision.errors import InputError
from jaxvision.options.options import read_options
from jaxvision.preflight.preflight import first_samples
from jaxvision.profiling.memory import StepMemory
from jaxvision.train.augmentation import device_augment, host_transform
from jaxvision.train.device_transforms import augment
from jaxvision.train.input import augment_key, mix_and_dropout_keys, update_key
from jaxvision.train.sharding import make_mesh, put_batch

ALL = (PadCrop((16, 16), 2), HorizontalFlip(0.5), VerticalFlip(0.5), RandomErasing(0.5))
seen = functools.partial(augment, preprocess_fn=helpers.preprocess, operations=ALL)

CROPPED = {"augment.crop": "random_resized", "augment.stored_size": 40}


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
    operations = (PadCrop((16, 16), 3), RandomErasing(0.5))
    found = np.asarray(
        augment(jax.random.key(0), white, preprocess_fn=helpers.preprocess, operations=operations)
    )
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


def names(config, size=24):
    """Returns the operations of the host and of the device."""
    options, host_ones = read_options(config).augment, host(config, size).operations
    seen = device_augment(options, helpers.preprocess, size, interpolation="bilinear")
    device_ones = seen.keywords["operations"] if seen else ()
    return tuple([type(one).__name__ for one in ones] for ones in (host_ones, device_ones))


@pytest.mark.parametrize(
    ("options", "of_host", "of_device"),
    [
        ({}, "Resize", "HorizontalFlip"),
        ({"augment.horizontal_flip": 0.0}, "Resize", ""),
        ({"augment.on_device": False}, "Resize HorizontalFlip", ""),
        ({"augment.crop": "pad", "augment.rotation": 5.0, "augment.erasing": 0.5}, "Resize",
         "PadCrop HorizontalFlip Rotation RandomErasing"),
        ({"augment.crop": "random_resized", "augment.policy": "trivial_augment"},
         "RandomResizedCrop", "HorizontalFlip TrivialAugment"),
        ({"augment.crop": "random_resized", "augment.stored_size": 32, "augment.blur": 0.5},
         "Resize CenterCrop", "RandomResizedCrop HorizontalFlip GaussianBlur"),
        # What only the host has, and what comes before it, stays there.
        ({"augment.perspective": 0.2, "augment.grayscale": 0.2},
         "Resize HorizontalFlip Perspective", "Grayscale"),
        ({"augment.policy": "aug_mix"}, "Resize", "HorizontalFlip AugMix"),
        ({"augment.policy": "three_augment"}, "Resize", "HorizontalFlip OneOf"),
        ({"augment.preset": "recommended", "augment.crop": "random_resized"},
         "RandomResizedCrop", "HorizontalFlip RandAugment"),
        ({"augment.preset": "torchvision_v2", **CROPPED}, "Resize CenterCrop",
         "RandomResizedCrop HorizontalFlip TrivialAugment RandomErasing"),
        ({"augment.preset": "basic", **CROPPED}, "Resize CenterCrop", "RandomResizedCrop "
         "HorizontalFlip VerticalFlip Rotation ColorJitter Grayscale GaussianBlur"),
        ({"augment.preset": "deit", "augment.crop": "random_resized"},
         "RandomResizedCrop HorizontalFlip TimmRandAugment", "RandomErasing"),
    ],
)  # fmt: skip
def test_what_is_done_where(options, of_host, of_device):
    found = names(config(**options))
    assert found == (of_host.split(), of_device.split())


def test_the_host_sends_squares_to_be_cut_from():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    options = {"augment.crop": "random_resized", "augment.stored_size": 32}
    stored = host(config(**options), 24)(image, None)
    expected = np.asarray(PIL.Image.fromarray(image).resize((48, 32), PIL.Image.BILINEAR))
    np.testing.assert_array_equal(stored, expected[:, 8:40])
    square = image[:32, :32]
    np.testing.assert_array_equal(host(config(**options), 24)(square, None), square)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment.erasing": 1.5}, "erasing is a probability"),
        ({"augment.stored_size": 32}, "random_resized cuts from, but config.augment.crop is none"),
        ({**CROPPED, "augment.on_device": False}, "set --config.augment.on_device=True, too"),
        ({**CROPPED, "data.image_size": 48}, "at least the 48 pixels of --config.data.image_size"),
        ({**CROPPED, "data.image_size_schedule": ((0, 16),)}, "images of one size cut from it"),
        ({**CROPPED, "augment.stored_size": -1}, "stored_size must be in 0..16384, got -1"),
        ({**CROPPED, "augment.perspective": 0.1}, "but it has no Perspective: set --config"),
        ({**CROPPED, "augment.preset": "deit"}, "but it has no TimmRandAugment"),
        ({"augment.perspective": 0.1}, "nothing to do, since the last operation, Perspective, is"),
        (
            {"augment.preset": "small_data", "augment.crop": "random_resized"},
            "operation, OneOf, is",
        ),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        host(config(**options), 24)


def test_a_filter_that_the_device_does_not_have_is_refused():
    options = read_options(config(**CROPPED)).augment
    with pytest.raises(InputError, match="no RandomResizedCrop with data.interpolation=nearest"):
        host_transform(options, 24, interpolation="nearest")


def test_samples_of_preflight_show_it():
    run = make_run(config(**{"augment.horizontal_flip": 1.0}))
    images, _ = first_samples(run)
    with contextlib.closing(run.train_batches()) as batches:
        for step in range(2):
            plain = next(batches)["image"][:5]
            np.testing.assert_array_equal(images[step], plain[:, :, ::-1])


def test_a_run_crops_and_augments_on_the_device(tmp_path):
    """Two steps, and an evaluation at the size of the model."""
    options = dict(CROPPED)
    options |= {"augment.rand_augment_layers": 2, "augment.color_jitter": (0.3, 0.3, 0.3, 0.1)}
    options |= {"augment.grayscale": 0.2, "augment.blur": 0.2, "augment.noise": 0.2}
    options |= {"augment.rotation": 10.0, "augment.shift_scale_rotate": (0.1, 0.1, 10.0)}
    options |= {"augment.erasing": 0.3, "total_steps": 2}
    run = make_run(config(**options))
    with contextlib.closing(run.train_batches()) as batches:
        assert next(batches)["image"].shape == (16, 40, 40, 3)
    sent = StepMemory(run).batch_of_training(8, 32)
    assert sent["image"].shape == (8, 40, 40, 3)
    state = train(config(**options), tmp_path)
    assert int(state.step) == 2 and int(state.skipped_steps) == 0


def test_large_photos_are_opened_undecoded_for_training_alone():
    crop = {"augment.crop": "random_resized", "augment.on_device": False}
    run = make_run(config(**crop, **{"data.reduced_decoding": True, "data.image_size": 80}))
    assert run.train_decode.func is open_photo and run.train_decode.keywords["large"] == 160
    assert run.decode.func is decode_image
    plain = make_run(config(**crop))
    assert plain.train_decode.func is decode_image
    for options in (
        {"augment.crop": "none"},
        {**crop, "augment.crop_antialias": True},
        {**CROPPED, "augment.on_device": True},
    ):
        with pytest.raises(InputError, match="reduced_decoding is for --config.augment.crop=rand"):
            make_run(config(**options, **{"data.reduced_decoding": True}))
