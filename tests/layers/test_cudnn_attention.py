"""cuDNN's attention around its kernel, for which jax's own form of the same call stands in.

`tests/test_gpu.py` compares the kernel itself, on a GPU.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.attention import dot_product_attention
from jaxvision.layers.cudnn_attention import cudnn_obstacle
from jaxvision.models.registry import create_model
from jaxvision.target_platform import tracing_for

_jax_attention = jax.nn.dot_product_attention
NAMES = ("query", "keys", "values")


@pytest.fixture
def calls(monkeypatch):
    """A list that receives the shapes of the queries of each call."""
    seen = []

    def on_a_cpu(query, keys, values, *, implementation, **options):
        assert implementation == "cudnn"
        assert query.shape[1] % 2 == keys.shape[1] % 2 == 0  # or it could not train
        for name in ("bias", "mask"):
            pairs = options.get(name)
            assert pairs is None or pairs.shape[2:] == (query.shape[1], keys.shape[1])
        seen.append(query.shape)
        return _jax_attention(query, keys, values, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_a_cpu)
    return seen


def given(targets, sources, batch=2, heads=2, head_dim=8):
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(batch, n, heads, head_dim) for n in (targets, sources, sources)]
    parts = {
        name: jax.random.normal(key, shape, jnp.bfloat16)
        for name, key, shape in zip(NAMES, keys, shapes, strict=False)
    }
    parts["bias"] = jax.random.normal(keys[3], (1, heads, targets, sources), jnp.bfloat16)
    parts["mask"] = jax.random.bernoulli(keys[4], 0.7, (batch, 1, targets, sources))
    parts["mask"] = parts["mask"].at[..., 0].set(True)
    return parts


@pytest.mark.parametrize("targets, sources", [(20, 20), (17, 17), (16, 9), (9, 16)])
@pytest.mark.parametrize("extra", [(), ("bias",), ("mask",), ("bias", "mask"), ("num_sources",)])
def test_any_number_of_tokens_gives_the_reference_and_its_gradients(calls, targets, sources, extra):
    parts = given(targets, sources)
    options = {name: parts[name] for name in extra if name in parts}
    if "num_sources" in extra:
        options["num_sources"] = sources - 3

    def output(implementation):
        def loss(query, keys, values):
            attended = dot_product_attention(
                query, keys, values, implementation=implementation, **options
            )
            return jnp.sin(attended.astype(jnp.float32)).sum(), attended

        every = (0, 1, 2)
        return jax.grad(loss, every, has_aux=True)(*(parts[name] for name in NAMES))

    left, right = output("cudnn"), output("reference")
    assert calls
    jax.tree.map(
        # Measured: 0.03 of gradients up to 2, which is a rounding of bfloat16 and a half.
        lambda x, y: np.testing.assert_allclose(
            x.astype(jnp.float32), y.astype(jnp.float32), atol=0.05
        ),
        left,
        right,
    )


def test_auto_is_cudnn_on_a_gpu_where_it_can_run(calls):
    parts = given(20, 20)
    query, keys, values = (parts[name] for name in NAMES)
    dot_product_attention(query, keys, values)
    assert not calls  # this is a CPU
    with tracing_for("gpu"):
        dot_product_attention(
            query.astype("float32"), keys.astype("float32"), values.astype("float32")
        )
        dot_product_attention(query[:, :1], keys, values)  # one step of decoding
        drops = {"dropout_rate": 0.1, "dropout_key": jax.random.key(0)}
        dot_product_attention(query, keys, values, **drops)
        assert not calls
        dot_product_attention(query, keys, values)
    assert calls == [(2, 20, 2, 8)]


@pytest.mark.parametrize(
    "dtype, head_dim, drops, message",
    [
        ("float32", 64, False, "needs float16 or bfloat16, got float32"),
        ("bfloat16", 20, False, "needs a head_dim of 8, 16, ... 128, got 20"),
        ("float16", 256, False, "needs a head_dim of 8, 16, ... 128, got 256"),
        ("bfloat16", 64, True, "has no dropout of weights"),
        ("bfloat16", 64, False, ""),
    ],
)
def test_obstacles(dtype, head_dim, drops, message):
    assert cudnn_obstacle(jnp.dtype(dtype), head_dim=head_dim, drops=drops) == message


@pytest.mark.parametrize(
    "capability, fits",
    [("9.0", True), ("8.0", True), ("12.0", True), ("7.5", False), ("gfx90a", False)],
)
def test_only_gpus_that_have_the_kernels_are_asked_for_them(monkeypatch, capability, fits):
    device = types.SimpleNamespace(compute_capability=capability, device_kind="Some GPU")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    found = cudnn_obstacle(jnp.dtype("float16"), head_dim=64, drops=False)
    needed = "needs an NVIDIA GPU of compute capability 8.0 or later, got Some GPU"
    assert found == ("" if fits else needed)


def loss_and_grads(make, images, platform):
    """Returns what a model that was built and traced for a platform gives in training."""
    with tracing_for(platform):
        graphdef, params = nnx.split(make(rngs=nnx.Rngs(0), scan=False))
        return jax.value_and_grad(
            lambda params: jnp.sin(nnx.merge(graphdef, params)(images, train=True)).sum()
        )(params)


@pytest.mark.parametrize("options", [{}, {"local_window": 3}, {"pool": "average"}])
def test_a_vit_pads_its_tokens_once_and_computes_the_same(calls, options):
    options = {"image_size": 32, "patch_size": 8, "depth": 2, "width": 32, "num_heads": 2} | options
    make = functools.partial(create_model, "vit_ti16", num_classes=3, dtype="bfloat16", **options)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    here, there = (loss_and_grads(make, images, platform) for platform in ("cpu", "gpu"))
    assert {shape[1] for shape in calls} == {24}  # 16 patches and a class token
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=0.05, rtol=0.05), here, there)


@pytest.mark.parametrize(
    "name", ["swin_t", pytest.param("swin_v2_t_w8", marks=pytest.mark.repeats)]
)
def test_swin_has_one_bias_for_all_examples_and_computes_the_same(calls, name):
    options = {"image_size": 96, "stage_depths": (2,), "stage_heads": (2,), "width": 32}
    options |= {"window_size": 7} if name == "swin_t" else {"window_size": 8}
    make = functools.partial(create_model, name, num_classes=3, dtype="bfloat16", **options)
    images = jax.random.normal(jax.random.key(1), (2, 96, 96, 3))

    here, there = (loss_and_grads(make, images, platform) for platform in ("cpu", "gpu"))
    assert calls and {shape[0] for shape in calls} == {2}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=0.06, rtol=0.06), here, there)
