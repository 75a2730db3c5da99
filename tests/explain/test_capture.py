"""What is taken along is what the model computes, and the model computes the same."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxvision.explain import attention_maps
from jaxvision.layers.tap import capture
from jaxvision.models.registry import create_model

MODELS = {
    "vit_ti16": {"image_size": 64, "depth": 3, "width": 24, "num_heads": 3},
    "deit_ti16_distilled": {"image_size": 64, "depth": 2, "width": 24, "num_heads": 3},
    "vit_r_ti16": {"image_size": 64, "depth": 2, "width": 24, "num_heads": 3},
    "swin_t": {"image_size": 64, "width": 12, "stage_depths": (2, 3), "stage_heads": (1, 2)}
    | {"window_size": 5},
    "swin_v2_t": {"image_size": 64, "width": 12, "stage_depths": (2, 3), "stage_heads": (1, 2)}
    | {"window_size": 4},
    "pvt_tiny": {"image_size": 64, "stage_depths": (1, 1, 1, 1), "stage_widths": (8, 8, 10, 8)}
    | {"mlp_ratios": (2, 2, 2, 2)},
    "pvt_v2_b2_li": {"stage_depths": (1, 1, 1, 1), "stage_widths": (8, 8, 10, 8)}
    | {"mlp_ratios": (2, 2, 2, 2)},
}
GRIDS = {  # of a 64 x 96 image: targets and sources of each layer, tokens before the patches
    "vit_ti16": [((4, 6), (4, 6), 1)] * 3,
    "deit_ti16_distilled": [((4, 6), (4, 6), 2)] * 2,
    "vit_r_ti16": [((2, 3), (2, 3), 1)] * 2,
    "swin_t": [((16, 24), (16, 24), 0)] * 2 + [((8, 12), (8, 12), 0)] * 3,
    "swin_v2_t": [((16, 24), (16, 24), 0)] * 2 + [((8, 12), (8, 12), 0)] * 3,
    "pvt_tiny": [
        ((16, 24), (2, 3), 0),
        ((8, 12), (2, 3), 0),
        ((4, 6), (2, 3), 0),
        ((2, 3), (2, 3), 1),
    ],
    "pvt_v2_b2_li": [((rows, rows * 3 // 2), (7, 7), 0) for rows in (16, 8, 4, 2)],
}
IMAGES = jax.random.normal(jax.random.key(1), (2, 64, 96, 3))


def build(name, **options):
    model = create_model(name, num_classes=5, rngs=nnx.Rngs(0), **MODELS.get(name, {}), **options)
    keys = iter(jax.random.split(jax.random.key(2), 1000))
    state = nnx.state(model, nnx.Param)
    nnx.update(
        model, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), state)
    )
    return model


forward = jax.jit(lambda model, images: model(images))


@pytest.mark.parametrize(("name", "scan"), [*((name, True) for name in MODELS), ("swin_t", False)])
def test_logits_keep_every_bit(name, scan):
    model = build(name, scan=scan)
    names = "attention", "tokens", "map"
    seen = jax.jit(lambda model, images: capture(lambda: model(images), *names))
    logits, found = seen(model, IMAGES)
    np.testing.assert_array_equal(logits, forward(model, IMAGES))
    assert len(found) > len(GRIDS[name])


@pytest.mark.parametrize("name", MODELS)
def test_attention_of_every_layer_lies_on_the_image(name):
    model = build(name)
    layers = attention_maps(model, IMAGES)
    assert [(x.grid, x.source_grid, x.prefix) for x in layers] == GRIDS[name]
    for layer in layers:
        targets = layer.prefix + np.prod(layer.grid)
        assert layer.weights.shape[0] == 2 and layer.weights.shape[2] == targets
        sums = layer.weights.sum(axis=-1)
        # Windows of 5 tokens stand over the border of 16 x 24: some look at padding.
        assert sums.max() < 1 + 1e-5
        if name != "swin_t":
            np.testing.assert_allclose(sums, 1.0, atol=1e-5)
        assert layer.seen().shape[2:] == layer.source_grid
