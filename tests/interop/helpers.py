"""Small models, and the weights that a library would have for them."""

import jax
import numpy as np
from flax import nnx

from jaxvision.interop.assign import extract_weights
from jaxvision.models.registry import create_model

VIT = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "image_size": 32}
RESNET = {"stage_widths": (8, 16), "stage_depths": (2, 1), "stem_width": 8}
# What a file may hold, of any library.
WEIGHTS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.half": np.arange(4, dtype=np.float16),
    "c.count": np.array(3, np.int64),
}


def vit(seed=0, **options):
    options = {**VIT, "num_classes": 5, **options}
    return create_model("vit_ti16", rngs=nnx.Rngs(seed), **options)


def deit(seed=0, **options):
    options = {**VIT, "num_classes": 5, **options}
    return create_model("deit_ti16_distilled", rngs=nnx.Rngs(seed), **options)


def resnet(seed=0, **options):
    options = {**RESNET, "num_classes": 5, **options}
    return create_model("resnet18", rngs=nnx.Rngs(seed), **options)


def random_weights(model, format="timm", seed=0):
    """Returns random weights of the model, under the library's names."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(array.shape).astype(np.float32)
        if array.dtype.kind == "f"
        else array
        for name, array in extract_weights(model, format=format).items()
    }


def leaves(model):
    return [np.asarray(leaf).copy() for leaf in jax.tree.leaves(nnx.state(model))]


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def assert_equal(left, right):
    assert set(left) == set(right)
    for name, array in right.items():
        assert left[name].dtype == array.dtype and left[name].shape == array.shape
        np.testing.assert_array_equal(left[name], array)
