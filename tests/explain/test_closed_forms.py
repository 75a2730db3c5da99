"""Maps of networks whose maps are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision import explain
from jaxvision.errors import InputError
from jaxvision.layers.tap import tap


class Linear(nnx.Module):
    """A map that is the image, its mean, and a matrix."""

    stage_tap = "map"

    def __init__(self, kernel):
        self.kernel = nnx.Param(kernel)

    def __call__(self, images):
        return tap("map", images).mean(axis=(1, 2)) @ self.kernel[...]


class Squares(Linear):
    def __call__(self, images):
        return super().__call__(images**2)


KERNEL = jax.random.normal(jax.random.key(0), (3, 4))
IMAGES = jax.random.normal(jax.random.key(1), (2, 4, 6, 3))
TARGETS = jnp.asarray([2, 0])


def test_grad_cam_of_a_linear_network():
    maps = explain.grad_cam(Linear(KERNEL), IMAGES, TARGETS)
    # Every pixel has the share 1 / 24 of the mean.
    expected = [IMAGES[i] @ KERNEL[:, target] / 24 for i, target in enumerate((2, 0))]
    np.testing.assert_allclose(maps, np.maximum(expected, 0), rtol=1e-5, atol=1e-7)
    with pytest.raises(InputError, match="has 1 stages, numbered 0 to 0"):
        explain.grad_cam(Linear(KERNEL), IMAGES, TARGETS, stage=1)


def test_integrated_gradients_are_complete():
    model, baseline = Squares(KERNEL), jnp.full_like(IMAGES, 0.5)
    parts = explain.integrated_gradients(model, IMAGES, TARGETS, baseline=baseline, steps=4)
    difference = (model(IMAGES) - model(baseline))[jnp.arange(2), TARGETS]
    np.testing.assert_allclose(parts.sum(axis=(1, 2, 3)), difference, rtol=1e-4)


def test_occlusion_of_a_linear_network():
    falls = explain.occlusion(Linear(KERNEL), IMAGES, TARGETS, window=1, stride=1)
    expected = [IMAGES[i] @ KERNEL[:, target] / 24 for i, target in enumerate((2, 0))]
    np.testing.assert_allclose(falls, expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(InputError, match="got a stride of 3 and a window of 2 pixels"):
        explain.occlusion(Linear(KERNEL), IMAGES, TARGETS, window=2, stride=3)


def test_curves_of_a_linear_network():
    model = Linear(5.0 * KERNEL)
    contributions = explain.occlusion(model, IMAGES, TARGETS, window=1, stride=1)
    best = explain.deletion_curve(model, IMAGES, contributions, TARGETS, steps=6)
    worst = explain.deletion_curve(model, IMAGES, -contributions, TARGETS, steps=6)
    chances = jax.nn.softmax(model(IMAGES))[jnp.arange(2), TARGETS]
    np.testing.assert_allclose(best[:, 0], chances, rtol=1e-5)
    np.testing.assert_allclose(best[:, -1], 0.25, rtol=1e-5)
    assert (best.mean(axis=1) < worst.mean(axis=1)).all()
    brought = explain.insertion_curve(model, IMAGES, contributions, TARGETS, steps=6)
    np.testing.assert_allclose(brought[:, [0, -1]], best[:, [-1, 0]], rtol=1e-5)


def test_a_model_without_attention():
    with pytest.raises(InputError, match="no attention to draw"):
        explain.attention_maps(Linear(KERNEL), IMAGES)
