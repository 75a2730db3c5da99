import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvision.train.device_augment import crop, erase, example_keys, flip

OPERATIONS = {
    "flip": functools.partial(flip, probability=0.5),
    "crop": functools.partial(crop, padding=2),
    "erase": functools.partial(erase, probability=0.7),
    "erase with noise": functools.partial(erase, probability=0.7, noise=True),
}


def make_images(batch=16, height=12, width=10):
    """Returns images without zeros in which every value occurs once."""
    count = batch * height * width * 3
    return (1 + np.arange(count, dtype=np.float32)).reshape(batch, height, width, 3)


def run(operation, images, seed=0, **options):
    return np.asarray(
        jax.jit(functools.partial(operation, **options))(jax.random.key(seed), images)
    )


def test_flip_by_hand():
    images = make_images(400)
    result = run(flip, images, probability=0.3)
    same = (result == images).all(axis=(1, 2, 3))
    mirrored = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all() and 0.22 < mirrored.mean() < 0.38
    np.testing.assert_array_equal(run(flip, images, probability=0.0), images)
    np.testing.assert_array_equal(run(flip, images, probability=1.0), images[:, :, ::-1])


def test_crop_takes_every_place():
    images = make_images(300, 6, 5)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = set()
    for image, wide in zip(run(crop, images, padding=2), padded, strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if (wide[top : top + 6, left : left + 5] == image).all()
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) == 25
    filled = run(crop, images, padding=2, fill=-7.0)
    assert (np.unique(filled[~np.isin(filled, images)]) == [-7.0]).all()
    np.testing.assert_array_equal(run(crop, images, padding=0), images)


def test_crop_of_a_mirrored_border():
    images = make_images(60, 6, 5)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for image, wide in zip(run(crop, images, padding=2, reflects=True), padded, strict=True):
        places = np.lib.stride_tricks.sliding_window_view(wide, image.shape).reshape(
            -1, *image.shape
        )
        assert (places == image).all(axis=(1, 2, 3)).sum() == 1


def test_crop_keeps_uint8():
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    assert run(crop, images).dtype == np.uint8 and run(flip, images).dtype == np.uint8


@pytest.mark.parametrize("noise", [False, True])
def test_erase_covers_one_box(noise):
    images = make_images(300, 24, 20)
    result = run(erase, images, probability=0.6, noise=noise)
    covered = (result != images).any(axis=-1)
    touched = covered.any(axis=(1, 2))
    assert 0.5 < touched.mean() < 0.7
    shares = covered[touched].mean(axis=(1, 2))
    assert 0.01 < shares.min() < 0.05 and 0.28 < shares.max() < 0.37
    for one in covered[touched]:
        rows, columns = one.any(axis=1), one.any(axis=0)
        np.testing.assert_array_equal(one, np.outer(rows, columns))
        assert np.abs(np.diff(rows.astype(int))).sum() <= 2
    inside = result[covered]
    if noise:
        assert abs(inside.mean()) < 0.05 and abs(inside.std() - 1) < 0.05
    else:
        assert (inside == 0).all()
    np.testing.assert_array_equal(run(erase, images, probability=0.0), images)
    tiny = make_images(3, 1, 1)
    np.testing.assert_array_equal(run(erase, tiny, probability=1.0), tiny)  # no box fits


@pytest.mark.parity
def test_erase_draws_from_torchvisions_distribution():
    import torch
    from torchvision.transforms import v2

    torch.manual_seed(0)
    peer, blank = v2.RandomErasing(p=1.0), torch.ones(3, 24, 20)
    theirs = [peer.make_params([blank]) for _ in range(2000)]
    covered = (run(erase, make_images(2000, 24, 20), probability=1.0) == 0).all(axis=-1)
    heights, widths = (covered.any(axis=axis).sum(axis=1) for axis in (2, 1))
    tops = covered.any(axis=2).argmax(axis=1)
    for ours, name in ((heights, "h"), (widths, "w"), (tops, "i")):
        # Kolmogorov-Smirnov distance of two samples of 2,000: above 0.055 once in 200 times.
        peers, grid = np.sort([box[name] for box in theirs]), np.arange(25)
        gap = np.searchsorted(np.sort(ours), grid, "right") - np.searchsorted(peers, grid, "right")
        assert np.abs(gap).max() / 2000 < 0.055, name


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_part_of_the_batch_gives_the_same_images(name):
    """Whole, in halves, one by one: the place in the whole batch decides, nothing else."""
    operation, images, key = jax.jit(OPERATIONS[name]), make_images(), jax.random.key(3)
    whole = np.asarray(operation(key, images))
    assert (whole != images).any()
    for size in (8, 1):
        parts = [operation(key, images[i : i + size], first=i) for i in range(0, 16, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    swapped = np.asarray(operation(key, images[::-1]))
    assert not np.array_equal(swapped[::-1], whole)
    assert not np.array_equal(operation(jax.random.key(4), images), whole)


@pytest.mark.parametrize("name", OPERATIONS)
def test_devices_change_nothing(name):
    operation, images, key = jax.jit(OPERATIONS[name]), make_images(), jax.random.key(3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    arguments = (
        jax.device_put(key, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(images, sharding),
    )
    compiled = operation.lower(*arguments).compile()
    eight = compiled(*arguments)
    assert eight.sharding.is_equivalent_to(sharding, ndim=4)
    assert "all-gather" not in compiled.as_text()  # the batch stays where it is
    np.testing.assert_array_equal(eight, operation(key, images))


def test_dtype_and_keys():
    images = jnp.asarray(make_images() / 6000, jnp.bfloat16)
    for operation in OPERATIONS.values():
        assert jax.eval_shape(operation, jax.random.key(0), images).dtype == jnp.bfloat16
    keys = example_keys(jax.random.key(1), 5, first=2)
    expected = [jax.random.fold_in(jax.random.key(1), i) for i in range(2, 7)]
    for key, one in zip(keys, expected, strict=True):
        assert jax.random.key_data(key).tolist() == jax.random.key_data(one).tolist()
