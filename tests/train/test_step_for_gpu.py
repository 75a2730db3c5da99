"""Training steps are lowered for CUDA, which needs neither a GPU nor its compiler, and read.

In bfloat16 every matrix product and convolution has bfloat16 factors, but for those named here, and
nothing is left of the forms that `layers/cpu` has for a CPU, all of which are loops.
"""

import re

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from opening import make_run

from configs import caption_shapes, smoke
from jaxvision.layers.cpu import depthwise
from jaxvision.models.registry import get_spec
from jaxvision.profiling.memory import StepMemory
from jaxvision.target_platform import tracing_for

BATCH = 16
ROWS = get_spec("efficientnet_b0").config.rows[:3]
TINY_VIT = dict(width=64, depth=2, num_heads=1, patch_size=8)
# Name, options of the model, pixels, and what must be there: so many depthwise convolutions, each
# with two gradients, or calls of cuDNN's attention, forward and backward.
CLASSIFIERS = [
    ("vit_ti16", TINY_VIT, 32, (0, 2)),
    ("vit_ti16", TINY_VIT | {"scan": True}, 32, (0, 1)),
    ("vit_ti16", TINY_VIT | {"attention": "fused"}, 32, (0, 0)),
    ("resnet18", dict(stage_depths=(1, 1), stage_widths=(16, 32)), 64, (0, 0)),
    ("resnet50", dict(stage_depths=(1, 1), stage_widths=(16, 32)), 64, (0, 0)),
    ("efficientnet_b0", dict(rows=ROWS, depth=0.1), 32, (3, 0)),
    ("convnext_tiny", dict(stage_depths=(1, 1), stage_widths=(32, 64)), 64, (2, 0)),
    ("swin_t", dict(stage_depths=(2,), stage_heads=(1,), width=32), 28, (0, 2)),
]


@pytest.fixture(autouse=True)
def cudnn(monkeypatch):
    """The version of cuDNN that JAX asks for, which is not here."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91900)


def lowered(config):
    """Returns (the program of a training step for a GPU as StableHLO, outputs of the head)."""
    with tracing_for("gpu"):
        run = make_run(config)
        batch = StepMemory(run).batch(BATCH, run.options.data.image_size)
        traced = run.train_step().trace(run.abstract_state, batch, None)
        return traced.lower(lowering_platforms=("cuda",)).as_text(), run.num_outputs


def float32_products(program, outputs):
    """Returns the factors of products and convolutions that are no bfloat16 and should be.

    The head may be float32, whose logits are, and so may the sum of a float32 gradient over the
    batch, which is a product with eight rows of ones.
    """
    factors = re.findall(
        r"stablehlo\.(?:dot_general|convolution).* : \(tensor<(.*?)>, tensor<(.*?)>\)", program
    )
    assert len(factors) == len(re.findall(r"stablehlo\.(?:dot_general|convolution)", program)) > 0
    return [
        pair
        for pair in factors
        if not all(factor.endswith("xbf16") for factor in pair)
        and not any(str(outputs) in factor.split("x") for factor in pair)
        and pair[0] != f"8x{BATCH}xf32"
    ]


@pytest.mark.parametrize(("name", "kwargs", "size", "calls"), CLASSIFIERS)
def test_classifiers(name, kwargs, size, calls):
    config = smoke.get_config()
    with config.unlocked():
        config.model.name, config.model.kwargs, config.model.dtype = name, kwargs, "bfloat16"
        config.model.num_classes = 11  # a number that no other array has
        config.data.image_size, config.batch_size = size, BATCH
        config.augment.mixup_alpha = 0.0  # its random numbers are drawn in a loop
    program, outputs = lowered(config)
    assert float32_products(program, outputs) == []
    assert "stablehlo.while" not in program or kwargs.get("scan")
    depthwise = re.findall(r"(?:feature|batch)_group_count = (\d+)", program)
    assert sum(int(groups) > 1 for groups in depthwise) == 3 * calls[0]
    attention = re.findall(r"custom_call @__cudnn\$fmha\w*Softmax(Backward)?\(", program)
    assert sorted(attention) == [""] * calls[1] + ["Backward"] * calls[1]


def test_captioner():
    config = caption_shapes.get_config()
    with config.unlocked():
        config.model.dtype, config.batch_size, config.eval_batch_size = "bfloat16", BATCH, BATCH
        config.data.shapes.num_train = config.data.shapes.num_eval = 64
        config.model.kwargs.update(depth=1, dropout_rate=0.1, attention_dropout_rate=0.1)
        config.model.kwargs.encoder_options.update(depth=1, stem="patch")
    program, outputs = lowered(config)
    assert float32_products(program, outputs) == [] and "stablehlo.while" not in program


def test_what_is_found():
    """Of a program with the faults that the tests look for."""

    def step(x, kernel):
        wide = (x.astype("float32") @ kernel.astype("float32")).astype(x.dtype)
        return depthwise.kernel_gradient(
            wide.reshape(1, 4, 4, 5),
            wide.reshape(1, 4, 4, 5),
            size=3,
            stride=1,
            sides=((1, 1),) * 2,
        )

    arguments = jax.ShapeDtypeStruct((16, 7), "bfloat16"), jax.ShapeDtypeStruct((7, 5), "bfloat16")
    program = jax.jit(step).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert float32_products(program, 11) == [("16x7xf32", "7x5xf32")]
    assert float32_products(program, 7) == [] and "stablehlo.while" in program
