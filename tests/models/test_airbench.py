"""The network of the CIFAR-10 speed runs; its parity is in tests/parity/test_airbench.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.layers.convolve import convolve
from jaxvision.models.airbench import whitening_kernel


def num_params(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_num_params_by_stage():
    model = nnx.eval_shape(lambda: jv.create_model("airbench94", rngs=nnx.Rngs(0)))
    parts = [num_params(part) for part in (model.stem, *model.stages, model.head)]
    assert parts == [312, 50_816, 737_792, 1_180_160, 2_560]
    assert sum(parts) == 1_971_640


def test_maps_of_32_pixels():
    model = nnx.eval_shape(lambda: jv.create_model("airbench94", rngs=nnx.Rngs(0)))
    maps = jax.eval_shape(lambda model: model.pyramid(jnp.zeros((1, 32, 32, 3))), model)
    shapes = {stride: array.shape[1:] for stride, array in maps.items()}
    assert shapes == {2: (15, 15, 64), 4: (7, 7, 256), 8: (3, 3, 256)}


def test_whitened_patches_have_variance_one_and_nothing_in_common():
    images = np.random.default_rng(0).normal(size=(300, 12, 10, 3)).cumsum(axis=1).cumsum(axis=2)
    kernel = whitening_kernel(images, 2, 0.0)
    outputs = np.asarray(
        convolve(jnp.asarray(images, jnp.float32), jnp.asarray(kernel, jnp.float32))
    )
    rows = outputs.reshape(-1, 24)
    np.testing.assert_array_equal(rows[:, :12], -rows[:, 12:])
    covariance = rows[:, :12].T @ rows[:, :12] / len(rows)
    np.testing.assert_allclose(covariance, np.eye(12), atol=2e-3)
    some = np.sum(kernel**2, axis=(0, 1, 2))
    assert np.all(np.diff(some[:12]) > 0)  # the axes of the largest variance come first


def test_images_that_are_not_finite_are_refused():
    model = jv.create_model("airbench94", rngs=nnx.Rngs(0), stage_widths=(8,))
    with pytest.raises(InputError, match="cannot be whitened"):
        model.fit_to_images(np.full((2, 8, 8, 3), np.nan, np.float32))


def test_weights_of_other_classes_leave_the_head(tmp_path):
    """A head without a bias: its kernel says how many classes there are."""
    make = lambda classes: jv.create_model(  # noqa: E731
        "airbench94", num_classes=classes, rngs=nnx.Rngs(classes), stage_widths=(8, 16)
    )
    for format in ("airbench", "jaxvision"):
        path = tmp_path / f"{format}.npz"
        jv.save_weights(make(7), path, format=format)
        model, before = make(5), make(5).head.kernel[...]
        report = jv.load_weights(model, path)
        assert "7 classes in the file, 5 in the model" in str(report)
        np.testing.assert_array_equal(model.head.kernel[...], before)
        np.testing.assert_array_equal(model.stem.kernel[...], make(7).stem.kernel[...])
        same = make(7)
        same.head.kernel[...] = jnp.zeros((16, 7))
        jv.load_weights(same, path)
        np.testing.assert_array_equal(same.head.kernel[...], make(7).head.kernel[...])
