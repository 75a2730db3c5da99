"""What only a GPU can show: `JAXVISION_TEST_GPU=1 python -m pytest -W default tests/test_gpu.py`.

The variable leaves the devices to JAX, which all other tests run on the CPU; `-W default` because
CUDA's libraries warn of what is not tested here. Runs need grain, ml_collections and tensorboardX;
without them their tests are skipped.
"""

import importlib
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.attention import dot_product_attention
from jaxvision.layers.window import local_mask, shift_mask
from jaxvision.models.registry import create_model
from jaxvision.target_platform import target_platform, tracing_for

logger = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows the numbers

pytestmark = pytest.mark.skipif(
    os.environ.get("JAXVISION_TEST_GPU") != "1", reason="needs a GPU and JAXVISION_TEST_GPU=1"
)

TOLERANCES = {"bfloat16": 2e-2, "float16": 4e-3}
# (targets, sources, heads, channels of a head, bias and mask)
ATTENTIONS = {
    "even": (196, 196, 3, 64, {}),
    "vit": (197, 197, 3, 64, {}),
    "vit_h": (257, 257, 2, 80, {}),
    "neighbours": (197, 197, 3, 64, {"mask": np.pad(local_mask(14, 14, 3), (1, 0), mode="edge")}),
    "swin": (49, 49, 3, 32, {"bias": 49}),
    "shifted": (49, 49, 3, 32, {"bias": 49, "mask": shift_mask((14, 14), (7, 7), (3, 3))}),
    "words": (11, 11, 4, 64, {"mask": np.tri(11, dtype=bool)}),
    "padded": (200, 200, 3, 64, {"num_sources": 197}),
    "memory": (11, 197, 4, 64, {}),
    "reduced": (784, 49, 2, 64, {}),
    "padding": (50, 13, 4, 64, {"mask": np.arange(13) < np.array([13, 9, 5, 1])[:, None, None]}),
}


def attention_inputs(targets, sources, heads, channels, extra, dtype):
    """Returns queries, keys, values and their bias, and the other arguments."""
    rng = np.random.default_rng(0)
    shapes = [(4, n, heads, channels) for n in (targets, sources, sources)]
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    if "bias" in extra:
        arrays.append(jnp.asarray(rng.normal(size=(1, heads, targets, sources)), jnp.float32))
    others = {name: value for name, value in extra.items() if name != "bias"}
    if "mask" in extra:
        mask = extra["mask"]
        others["mask"] = jnp.asarray(mask.reshape(-1, 1, *mask.shape[-2:]))
    return arrays, others


def output_and_gradients(arrays, others, implementation):
    @jax.jit
    def run(arrays, cotangent):
        def attend(query, keys, values, bias=None):
            return dot_product_attention(
                query, keys, values, bias=bias, implementation=implementation, **others
            )

        output, pull = jax.vjp(attend, *arrays)
        return output, *pull(cotangent.astype(output.dtype))

    cotangent = np.random.default_rng(1).normal(size=arrays[0].shape)
    return run(arrays, jnp.asarray(cotangent, jnp.bfloat16))  # the same bits in every dtype


def distance(found, expected):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    assert np.isfinite(found).all()
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_programs_are_for_the_gpu():
    assert jax.default_backend() == target_platform() == "gpu"


@pytest.mark.parametrize("case", ATTENTIONS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("implementation", ["cudnn", "fused"])
def test_attention_equals_the_formula_in_float32(implementation, dtype, case):
    arrays, others = attention_inputs(*ATTENTIONS[case], dtype)
    found = output_and_gradients(arrays, others, implementation)
    with jax.default_matmul_precision("highest"):
        wide = [array.astype(jnp.float32) for array in arrays]
        expected = output_and_gradients(wide, others, "reference")
    names = ("output", "query", "keys", "values", "bias")
    distances = {n: distance(*pair) for n, *pair in zip(names, found, expected, strict=False)}
    logger.info("%s", ", ".join(f"{name} {value:.1e}" for name, value in distances.items()))
    assert max(distances.values()) < TOLERANCES[dtype], distances
    assert [x.dtype for x in found] == [arrays[0].dtype, *(x.dtype for x in arrays)]


@pytest.mark.parametrize("implementation", ["cudnn", "fused"])
def test_a_row_without_any_source_is_the_mean_and_has_finite_gradients(implementation):
    arrays, _ = attention_inputs(11, 49, 4, 64, {}, "bfloat16")
    mask = (np.arange(11) > 2).reshape(1, 1, 11, 1)
    mask = jnp.asarray(np.broadcast_to(mask, (1, 1, 11, 49)))
    output, *gradients = output_and_gradients(arrays, {"mask": mask}, implementation)
    mean = np.broadcast_to(np.asarray(arrays[2], np.float32).mean(1, keepdims=True), output.shape)
    assert distance(output[:, :3], mean[:, :3]) < TOLERANCES["bfloat16"]
    assert all(bool(jnp.isfinite(x).all()) for x in gradients)


SMALL_MODELS = {
    "vit_ti16": {"depth": 2, "image_size": 64},
    "swin_t": {"stage_depths": (2, 2), "stage_heads": (1, 2), "width": 32, "image_size": 64},
    "pvt_v2_b0": {},
    "resnet18": {"stage_depths": (1, 1), "stage_widths": (16, 32)},
    "convnext_tiny": {"stage_depths": (1, 1), "stage_widths": (16, 32), "layer_scale_init": None},
    "mobilenet_v3_small": {},
    "efficientnet_b0": {},
}


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_a_model_and_its_gradient_are_those_of_a_cpu(name):
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)

    def logits_and_gradient(platform):
        device = jax.devices(platform)[0]
        with tracing_for(platform), jax.default_device(device):
            model = create_model(name, rngs=nnx.Rngs(0), **SMALL_MODELS[name])

            @jax.jit
            def run(images):
                logits, pull = jax.vjp(model, images)
                return logits, *pull(jnp.ones_like(logits))

            return run(images)

    with jax.default_matmul_precision("highest"):
        pairs = zip(logits_and_gradient("cpu"), logits_and_gradient(target_platform()), strict=True)
    assert max(distance(found, expected) for expected, found in pairs) < 1e-4


@pytest.mark.parametrize("name", ["configs.smoke", "torture.resnet"], ids=["vit", "resnet"])
def test_two_deterministic_runs_have_the_same_bits(name, tmp_path):
    for needed in ("grain", "ml_collections", "tensorboardX"):
        pytest.importorskip(needed)
    from torture import runs

    module = importlib.import_module(name)
    one, other = tmp_path / "one", tmp_path / "other"
    for workdir in (one, other):
        cache = f"--config.compilation_cache={workdir}-cache"  # each tunes its own kernels
        runs.finish(
            module,
            workdir,
            "--config.deterministic=true",
            cache,
            environment={"JAX_PLATFORMS": "cuda"},
        )
    runs.assert_same_end("two deterministic runs on a GPU", module, one, other)
