"""What every registered model must do, at a size that costs nothing."""

import contextlib
import copy
import dataclasses
import functools
import io
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.models.mobilenet import BlockRow
from jaxvision.models.spec import check_images

VIT = {
    "image_size": 16,
    "patch_size": 8,
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    # These merge giant, transformers' and DeiT-III's rows with the plain one.
    "mlp_ratio": 4.0,
    "norm_eps": 1e-6,
    "layer_scale_init": None,
    "class_token_position": True,
}
MOBILE = {
    "rows": (BlockRow(channels=8), BlockRow(channels=16, expansion=2, stride=2, repeats=2)),
    "width": 1.0,
    "stem_width": 8,
    "activation": "hard_swish",
    "padding": "same",
    "dropout_rate": 0.0,
    "norm_eps": 1e-3,
    "norm_momentum": 0.1,
}
SQUEEZING = tuple(dataclasses.replace(row, squeeze=True) for row in MOBILE["rows"])
TINY = {
    "mobilenet_v1": {**MOBILE, "rows": (BlockRow(channels=8), BlockRow(channels=16, stride=2))},
    "mobilenet_v2": {**MOBILE, "last_width": 16},
    "mobilenet_v3": {**MOBILE, "rows": SQUEEZING, "last_width": 16, "hidden_width": 16},
    "efficientnet": {
        **MOBILE,
        "rows": SQUEEZING,
        "last_width": 16,
        "depth": 1.0,
        "scale_ends": True,
        "drop_path_rate": 0.0,
    },
    "pvt": {
        "stage_depths": (1, 2),
        "stage_widths": (8, 16),
        "stage_heads": (1, 2),
        "mlp_ratios": (2, 2),
        "reduction_ratios": (2, 1),
        "image_size": 16,
    },
    "pvt_v2": {
        "stage_depths": (2,),
        "stage_widths": (8,),
        "stage_heads": (2,),
        "mlp_ratios": (2,),
        "reduction_ratios": (2,),
        "projection_norm_eps": 1e-5,
    },
    "swin": {
        "width": 8,
        "stage_depths": (1, 2),
        "stage_heads": (1, 2),
        "window_size": 2,
        "image_size": (32, 16),
    },
    "swin_v2": {
        "width": 8,
        "stage_depths": (1, 2),
        "stage_heads": (1, 2),
        "window_size": 2,
        "image_size": (32, 16),
        "windows": "padded",
        "trained_windows": None,
        "key_bias": True,
    },
    "convnext": {"stage_depths": (2,), "stage_widths": (8,), "head_norm_eps": 1e-6},
    "vit": VIT,
    "deit": VIT,
    "dinov2": {**VIT, "class_token_position": False, "layer_scale_init": None},
    "hybrid_vit": {
        **VIT,
        "stage_depths": (1,),
        "stage_widths": (8,),
        "stem_width": 8,
        "norm_groups": 2,
    },
    "airbench": {"stage_widths": (8, 16)},
    "resnet": {"stage_depths": (1, 1), "stage_widths": (32, 32), "stem_width": 8},
}
NUM_CLASSES = 5
IMAGES = jax.random.normal(jax.random.key(0), (2, 32, 16, 3))  # not square


def build(name, dtype="float32", **overrides):
    spec = jv.get_spec(name)
    overrides = {"num_classes": NUM_CLASSES, **TINY[spec.family], **overrides}
    return jv.create_model(name, dtype=dtype, rngs=nnx.Rngs(0), **overrides)


def different_when_tiny():
    """Returns one name of each set of models that the tiny overrides make equal."""
    names = {}
    for name in jv.list_models():
        spec = jv.get_spec(name)
        names.setdefault(dataclasses.replace(spec.config, **TINY[spec.family]), name)
    return sorted(names.values())


# Their blocks are those of resnet101; the stacks of blocks, those of deit3_b16 and pvt_v2_b0.
SAME_BLOCKS = {"resnext50_32x4d", "wide_resnet50_2"}
SAME_STACKS = {"deit_b16_distilled", "vit_r26_b32", "pvt_v2_b2_li"}


def marked(names, repeats):
    return [pytest.param(n, marks=pytest.mark.repeats) if n in repeats else n for n in names]


def with_field(field):
    names = [n for n in different_when_tiny() if hasattr(jv.get_spec(n).config, field)]
    return marked(names, SAME_BLOCKS | (SAME_STACKS if field in ("scan", "remat") else set()))


def split(model):
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def scattered(params):
    """Moves every parameter off the values (0, 1) that would hide a missing connection."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        structure, [x + rng.normal(0, 0.1, x.shape).astype(x.dtype) for x in leaves]
    )


def loss_and_grads(model, params=None, **call):
    graphdef, own, stats = split(model)

    @jax.jit
    def run(params):
        def loss(params):
            model = nnx.merge(graphdef, params, stats, copy=True)
            logits = model(IMAGES, **{k: v() for k, v in call.items()})
            weights = jnp.arange(1.0, logits.size + 1).reshape(logits.shape)
            return (jnp.sin(logits) * weights).sum(), nnx.to_pure_dict(
                nnx.state(model, nnx.BatchStat)
            )

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, stats), grads = run(scattered(own) if params is None else params)
    return loss, grads, stats


def train():
    return {"train": lambda: True, "rngs": lambda: nnx.Rngs(dropout=1)}


@functools.cache
def trained(name, **options):
    """Returns what several tests look at, compiled once."""
    return loss_and_grads(build(name, **options), **train())


@jax.jit
def forward(model):
    return model(IMAGES)


@functools.partial(jax.jit, static_argnums=0)
def trained_forward(graphdef, params, stats, key):
    model = nnx.merge(graphdef, params, stats, copy=True)
    return model(IMAGES, train=True, rngs=nnx.Rngs(dropout=key))


def assert_close(left, right, atol):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-4), left, right)


FAMILIES = {jv.get_spec(name).family: name for name in jv.list_models()}


@pytest.mark.parametrize("name", FAMILIES.values())
def test_an_empty_batch(name):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(name)))
    none = jax.ShapeDtypeStruct((0, 32, 16, 3), jnp.float32)
    logits = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, none)
    assert logits.shape == (0, NUM_CLASSES)


@pytest.mark.parametrize("name", [*FAMILIES.values(), "captioner"])
def test_copies_are_the_same(name):
    small = {} if name != "captioner" else {"depth": 1}
    model = nnx.eval_shape(
        lambda: build(name) if not small else jv.create_model(name, rngs=nnx.Rngs(0), **small)
    )
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        (graphdef, state), (expected, shapes) = nnx.split(copied), nnx.split(model)
        assert graphdef == expected  # as a key of jit's cache, too
        assert jax.tree.leaves(state) == jax.tree.leaves(shapes)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        nnx.display(model)
    assert type(model).__name__ in shown.getvalue()


@pytest.mark.parametrize("name", FAMILIES.values())
def test_wrong_calls_say_what_to_type(name):
    model = nnx.eval_shape(lambda: build(name))
    with pytest.raises(InputError, match="train=True"):
        model.train()
    with pytest.raises(InputError, match="evaluates"):
        model.eval()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_pixels_that_are_not_normalised_are_refused(dtype):
    with pytest.raises(InputError, match=rf"got {dtype}: pass jv\.preprocess\("):
        check_images(jnp.zeros((1, 8, 8, 3), dtype), 3)


@pytest.mark.parametrize("name", jv.list_models())
def test_spec_is_consistent(name):
    spec = jv.get_spec(name)
    few = {"cifar_resnet": 10, "airbench": 10, "dinov2": 0}
    classes = next((few[start] for start in few if name.startswith(start)), 1000)
    assert spec.name == name and spec.config.num_classes == classes and spec.source
    hash(spec)
    values = {
        field.name: getattr(spec.config, field.name) for field in dataclasses.fields(spec.config)
    }
    assert type(spec.config)(**values) == spec.config
    changed = dataclasses.replace(spec.config, num_classes=3)
    assert changed != spec.config
    assert dataclasses.replace(changed, num_classes=classes) == spec.config
    assert all(jv.get_spec(alias) is spec for alias in spec.aliases)
    assert 0 < spec.preprocess.crop_fraction <= 1


@pytest.mark.parametrize("name", marked(different_when_tiny(), SAME_BLOCKS))
def test_logits(name):
    by_dtype = {}
    for dtype in ("float32", "bfloat16"):
        model = build(name, dtype)
        logits = by_dtype[dtype] = forward(model)
        assert logits.shape == (2, NUM_CLASSES) and logits.dtype == jnp.float32
        assert bool(jnp.isfinite(logits).all())
        graphdef, params, stats = split(model)
        assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
        again = nnx.merge(graphdef, params, stats)
        np.testing.assert_array_equal(forward(again), logits)
    full = by_dtype["float32"]
    np.testing.assert_allclose(by_dtype["bfloat16"], full, atol=0.03 * float(jnp.abs(full).max()))


@pytest.mark.parametrize("name", different_when_tiny())
def test_features_are_what_the_head_reads(name):
    model = nnx.eval_shape(lambda: build(name, num_classes=0))
    assert model.head is None
    features, pooled = jax.eval_shape(lambda m: (m.features(IMAGES), m(IMAGES)), model)
    assert pooled.shape == (2, features.shape[-1]) and pooled.dtype == jnp.float32


@pytest.mark.parametrize("name", different_when_tiny())
def test_pyramid(name):
    model = nnx.eval_shape(lambda: build(name))
    maps = jax.eval_shape(lambda m: m.pyramid(IMAGES), model)
    assert list(maps) == sorted(maps)
    for stride, grid in maps.items():
        sides = [-(-side // stride) for side in (32, 16)]
        if name.startswith("airbench"):  # without padding, and its pooling leaves out odd borders
            sides = [(side - 1) // stride for side in (32, 16)]
        assert grid.shape[:3] == (2, *sides)
    features = jax.eval_shape(lambda m: m.features(IMAGES), model)
    assert list(maps.values())[-1].shape[-1] == features.shape[-1]


@pytest.mark.parametrize("name", marked(different_when_tiny(), SAME_BLOCKS))
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name):
    _, grads, _ = trained(name)
    family = jv.get_spec(name).family
    for path, grad in jax.tree.leaves_with_path(grads):
        keys = [entry.key for entry in path]
        assert bool(jnp.isfinite(grad).all()), keys
        largest = float(jnp.abs(grad).max())
        if keys[-3:] == ["attn", "key", "bias"]:
            assert largest < 1e-3, keys  # softmax does not see a shift of all scores
        elif keys[-3:] == ["project", "norm", "bias"] and family != "mobilenet_v1":
            assert largest < 1e-3, keys  # nor does the next 1x1 convolution's batch norm
        else:
            assert largest > 1e-4, keys


@pytest.mark.parametrize("name", with_field("norm_momentum"))
def test_batch_statistics_move_only_in_training(name):
    model = build(name)
    _, _, before = split(model)
    _, _, evaluated = loss_and_grads(model)
    assert_close(before, evaluated, atol=0)
    _, _, after = trained(name)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert not np.allclose(old, new)


@pytest.mark.parametrize("name", marked(different_when_tiny(), SAME_BLOCKS))
def test_training_with_all_rates_zero_needs_no_randomness(name):
    without = loss_and_grads(build(name), train=lambda: True)
    assert_close(trained(name)[:2], without[:2], atol=0)


@pytest.mark.parametrize("rate", ["dropout_rate", "drop_path_rate", "attention_dropout_rate"])
def test_rates_act_in_training_only(rate):
    for name in ("vit_ti16", "resnet18"):
        if not hasattr(jv.get_spec(name).config, rate):
            continue
        model, plain = build(name, **{rate: 0.5}), build(name)
        np.testing.assert_array_equal(forward(model), forward(plain))
        graphdef, params, stats = split(model)
        params = scattered(params)  # a branch that begins with zeros has nothing to drop
        keys = (jax.random.key(seed) for seed in (1, 1, 2))
        one, same, other = (trained_forward(graphdef, params, stats, key) for key in keys)
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, other)
        with pytest.raises(ValueError, match="rngs is None: pass rngs=nnx.Rngs"):
            model(IMAGES, train=True)


def rates(name):
    """Returns a value above 0 for every rate that the model has."""
    values = {"dropout_rate": 0.2, "attention_dropout_rate": 0.2, "drop_path_rate": 0.4}
    config = jv.get_spec(name).config
    return {rate: value for rate, value in values.items() if hasattr(config, rate)}


@pytest.mark.parametrize("name", with_field("remat"))
def test_remat_changes_nothing(name):
    again = loss_and_grads(build(name, remat=True, **rates(name)), **train())
    assert_close(trained(name, **rates(name)), again, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["vit_ti16", "vit_r_ti16", "swin_t", "swin_v2_t_w8", "pvt_v2_b0", "convnext_tiny"]
    + ["resnet18", "mobilenet_v3_small"],
)
def test_forward_mode_agrees_with_reverse_mode_in_training(name):
    graphdef, params, stats = split(build(name))
    params, move = scattered(params), jax.tree.map(jnp.cos, params)

    def logits(params):
        return nnx.merge(graphdef, params, stats, copy=True)(IMAGES, train=True, rngs=nnx.Rngs(0))

    @jax.jit
    def run(params, move):
        outputs, moved = jax.jvp(logits, (params,), (move,))
        grad = jnp.sin(jnp.arange(1.0, outputs.size + 1)).reshape(outputs.shape)
        (grads,) = jax.vjp(logits, params)[1](grad)
        return jnp.vdot(moved, grad), sum(
            map(jnp.vdot, jax.tree.leaves(grads), jax.tree.leaves(move))
        )

    forward, reverse = run(params, move)
    assert abs(float(forward)) > 1e-3
    assert float(forward) == pytest.approx(float(reverse), rel=1e-3)


@pytest.mark.parametrize("name", with_field("scan"))
def test_scan_equals_the_loop(name):
    from jaxvision.layers.block_stack import stack_blocks, unstack_blocks

    listed, stacked = build(name, scan=False, **rates(name)), build(name, **rates(name))
    assert stacked.config.scan
    params, stacked_params = split(listed)[1], split(stacked)[1]
    assert_close(unstack_blocks(stacked_params), params, atol=0)
    assert_close(stack_blocks(params), stacked_params, atol=0)
    params = unstack_blocks(scattered(stacked_params))
    loss, grads, _ = loss_and_grads(listed, params, **train())
    stacked_loss, stacked_grads, _ = trained(name, **rates(name))
    np.testing.assert_allclose(loss, stacked_loss, rtol=1e-5)
    assert_close(grads, unstack_blocks(stacked_grads), atol=1e-4)


@pytest.mark.parametrize("name", different_when_tiny())
def test_equal_models_have_equal_graphs_and_no_random_state(name):
    left, right = build(name), build(name)
    assert nnx.graphdef(left) == nnx.graphdef(right)
    assert hash(nnx.graphdef(left)) == hash(nnx.graphdef(right))
    assert_close(split(left)[1], split(right)[1], atol=0)
    abstract = nnx.eval_shape(lambda: build(name))
    assert nnx.graphdef(abstract) == nnx.graphdef(left)


@pytest.mark.parametrize("name", ["vit_ti16", "resnet18"])
def test_wrong_images(name):
    with pytest.raises(ValueError, match=r"\[batch, height, width, 3\], got shape"):
        build(name)(jnp.zeros((2, 3, 16, 16)))
    with pytest.raises(ValueError, match=r"\[batch, height, width, 1\], got shape"):
        build(name, in_channels=1)(IMAGES)
    assert build(name, in_channels=1)(IMAGES[..., :1]).shape == (2, NUM_CLASSES)


def test_names():
    assert jv.list_models("resnet1*") == ["resnet101", "resnet152", "resnet18"]
    assert jv.get_spec("vit_base_patch16_224") is jv.get_spec("vit_b_16") is jv.get_spec("vit_b16")
    with pytest.raises(ValueError, match="no model 'resnet5': did you mean resnet50"):
        jv.get_spec("resnet5")
    with pytest.raises(ValueError, match=r"no model '\?': see list_models"):
        jv.get_spec("?")


def test_overrides_are_checked():
    with pytest.raises(
        TypeError, match="resnet18 has no option depht; its options are block, stage_d"
    ):
        jv.create_model("resnet18", rngs=nnx.Rngs(0), depht=3)
    with pytest.raises(ValueError, match="vit_b16: .*224 x 224 pixels does not divide.*15"):
        jv.create_model("vit_b16", rngs=nnx.Rngs(0), patch_size=15)
    with pytest.raises(ValueError, match="dtype must be .*got 'int8'"):
        jv.create_model("vit_b16", rngs=nnx.Rngs(0), dtype="int8")
    if not jax.config.read("jax_enable_x64"):
        with pytest.raises(ValueError, match="set JAX_ENABLE_X64=1"):
            jv.create_model("resnet18", rngs=nnx.Rngs(0), dtype="float64")


@pytest.mark.parametrize(
    ("name", "overrides", "count"),
    [
        ("resnet18", {"num_classes": 10}, 11_181_642),
        ("resnet50", {"num_classes": 10}, 23_528_522),
        ("vit_b16", {"num_classes": 10}, 85_806_346),
        ("vit_b16", {"image_size": 384}, 86_859_496),
        ("vit_l16", {"image_size": 512}, 305_174_504),
        ("vit_h14", {"image_size": 518}, 633_470_440),
        ("vit_s16", {"pool": "average", "class_token": False}, 22_049_896),
        ("vit_b32", {"pool": "average", "class_token": False}, 88_222_696),
    ],
)
def test_num_params_of_overrides(name, overrides, count):
    model = nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0), **overrides))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


def test_importing_the_package_imports_nothing():
    code = "import sys, jaxvision as jv; assert 'get_spec' in dir(jv); print('jax' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        _ = jv.creat_model
