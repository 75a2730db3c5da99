"""Which form of a convolution a program holds, and its derivatives of both kinds."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.layers.convolve import convolve

SIDES = ((1, 1), (1, 1))
KERNELS = {"depthwise": (3, 3, 1, 4), "dense": (3, 3, 4, 6), "grouped": (3, 3, 2, 6)}


def arrays(kind, size=16):
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = jax.random.normal(keys[0], (2, size, size, 4))
    return inputs, jax.random.normal(keys[1], KERNELS[kind])


def loss(inputs, kernel):
    return jnp.sin(convolve(inputs, kernel, stride=1, sides=SIDES)).sum()


def plain_loss(inputs, kernel):
    """The same in JAX's own operation, which JAX differentiates."""
    outputs = jax.lax.conv_general_dilated(
        inputs,
        kernel,
        (1, 1),
        SIDES,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1] // kernel.shape[2],
    )
    return jnp.sin(outputs).sum()


def lowered(function, arguments, *platforms):
    """Returns (convolutions, loops) of a program that is lowered here for other platforms."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms).as_text()
    return text.count("stablehlo.convolution"), text.count("stablehlo.while")


@pytest.mark.parametrize(
    ("kind", "forward", "backward"),
    [("depthwise", (0, 0), (0, 1)), ("dense", (1, 0), (2, 1)), ("grouped", (1, 0), (3, 0))],
)
def test_the_form_is_chosen_when_the_program_is_lowered(kind, forward, backward):
    gradient = jax.value_and_grad(loss, (0, 1))
    assert lowered(loss, arrays(kind), "cpu") == forward
    assert lowered(gradient, arrays(kind), "cpu") == backward
    assert lowered(loss, arrays(kind), "cuda") == (1, 0)
    assert lowered(gradient, arrays(kind), "cuda") == (3, 0)
    convolutions, loops = lowered(gradient, arrays(kind), "cpu", "cuda")
    assert convolutions >= 3 and loops == backward[1]


def test_a_program_for_both_platforms_runs_its_own_form_on_each():
    gradient, given = jax.grad(loss, (0, 1)), arrays("depthwise")
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda"))(*given)
    text = exported.mlir_module()
    assert "stablehlo.convolution" in text and "stablehlo.while" in text
    for ours, here in zip(exported.call(*given), gradient(*given), strict=True):
        np.testing.assert_allclose(ours, here, rtol=1e-5, atol=1e-5)


def traced(name):
    model = nnx.eval_shape(lambda: jv.create_model(name, num_classes=3, rngs=nnx.Rngs(0)))
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

    def logits(params, stats, images):
        return nnx.merge(graphdef, params, stats)(images)

    def gradient(params, stats, images):
        def loss(params):
            model = nnx.merge(graphdef, params, stats, copy=True)
            return model(images, train=True, rngs=nnx.Rngs(0)).sum()

        return jax.grad(loss)(params)

    given = params, stats, jnp.zeros((2, 64, 64, 3))
    return {"logits": jax.jit(logits).trace(*given), "gradient": jax.jit(gradient).trace(*given)}


def grouped(text):
    return len(re.findall(r"(?:feature|batch)_group_count = (?!1 )", text))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_a_model_lowered_for_a_gpu_has_the_gpus_forms(name):
    texts = {
        (platform, function): trace.lower(lowering_platforms=(platform,)).as_text()
        for function, trace in traced(name).items()
        for platform in ("cpu", "cuda")
    }
    convolutions, loops = (
        {key: text.count(f"stablehlo.{operation}") for key, text in texts.items()}
        for operation in ("convolution", "while")
    )
    assert loops["cuda", "logits"] == loops["cuda", "gradient"] == loops["cpu", "logits"] == 0
    assert convolutions["cpu", "gradient"] < convolutions["cuda", "gradient"]
    assert loops["cpu", "gradient"] > 0
    depthwise = {key: grouped(text) for key, text in texts.items()}
    assert depthwise["cpu", "logits"] == depthwise["cpu", "gradient"] == 0
    if name == "resnet18":
        assert convolutions["cpu", "logits"] == convolutions["cuda", "logits"] > 0
    else:
        assert convolutions["cpu", "logits"] == 1  # the stem
        assert 0 < 2 * depthwise["cuda", "logits"] < depthwise["cuda", "gradient"]


@pytest.mark.parametrize("kind", KERNELS)
def test_the_compiled_program_has_no_conditional(kind):
    text = jax.jit(jax.grad(loss, (0, 1))).lower(*arrays(kind)).compile().as_text()
    assert not re.search(r"\bconditional\(", text)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("argument", [0, 1])
def test_forward_and_reverse_mode_agree_with_jaxs(kind, argument):
    given = arrays(kind)
    expected = jax.jit(jax.grad(plain_loss, argument))(*given)
    for mode in (jax.grad, jax.jacfwd, jax.jacrev):
        result = jax.jit(mode(loss, argument))(*given)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KERNELS)
def test_second_derivatives_agree_with_jaxs(kind):
    given = arrays(kind)
    move = jax.tree.map(jnp.cos, given)

    def curvature(loss, outer):
        def slope(*given):
            return sum(map(jnp.vdot, jax.grad(loss, (0, 1))(*given), move))

        if outer == "reverse":
            return jax.jit(jax.grad(slope, (0, 1)))(*given)
        return jax.jit(lambda: jax.jvp(jax.grad(loss, (0, 1)), given, move)[1])()

    expected = curvature(plain_loss, "reverse")
    for outer in ("forward", "reverse"):
        for ours, theirs in zip(curvature(loss, outer), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_of_the_gradient(kind, axes):
    given = [
        jnp.stack([x, 2 * x]) if axis == 0 else x
        for x, axis in zip(arrays(kind), axes, strict=True)
    ]
    ours = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), axes))(*given)
    theirs = jax.jit(jax.vmap(jax.grad(plain_loss, (0, 1)), axes))(*given)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)
