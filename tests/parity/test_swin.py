"""Both Swin Transformers against timm, torchvision and transformers."""

import functools

import numpy as np
import pytest
from flax import nnx
from parity import members, peers

from jaxvision.errors import InputError
from jaxvision.interop.swin import fit_table
from jaxvision.layers.window import log_spaced_coordinates, relative_position_index, shift_mask
from jaxvision.models.swin import SwinConfig

timm, torchvision = members.timm, members.torchvision
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
SIZE = {"embed_dim": 24, "depths": (2, 3), "num_heads": (3, 6), "num_classes": peers.CLASSES}
OURS = {"width": 24, "stage_depths": (2, 3), "stage_heads": (3, 6)}
WHOLE, WIDE, ODD = (32, 32), (16, 48), (20, 36)  # of windows of 2; of 3 ODD is not


def timm_swin(version, shape, window, **options):
    module = getattr(timm.models, "swin_transformer" + "_v2" * (version == 2))
    build = module.SwinTransformer if version == 1 else module.SwinTransformerV2
    return build(img_size=shape, window_size=window, drop_path_rate=0.0, **SIZE, **options)


def torchvision_swin(version, window):
    module = torchvision.models.swin_transformer
    second = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
    return module.SwinTransformer(
        patch_size=[4, 4],
        window_size=[window, window],
        stochastic_depth_prob=0.0,
        **SIZE,
        **(second if version == 2 else {}),
    )


def hf_swin(version, side, window, **options):
    config, build = (
        (transformers.SwinConfig, transformers.SwinForImageClassification)
        if version == 1
        else (transformers.Swinv2Config, transformers.Swinv2ForImageClassification)
    )
    size = {name: value for name, value in SIZE.items() if name != "num_classes"}
    return build(
        config(
            image_size=side,
            window_size=window,
            drop_path_rate=0.0,
            num_labels=peers.CLASSES,
            **size,
            **options,
        )
    )


def swin(source, version, shape, window, **options):
    """Returns (builder of the peer, our name, source, our options)."""
    ours = {**OURS, "image_size": shape, "window_size": window}
    if source == "timm":
        build = functools.partial(timm_swin, version, shape, window)
        if version == 2 and "trained_windows" in options:
            build = functools.partial(build, pretrained_window_sizes=options["trained_windows"])
        ours["windows"] = "fitted"
    elif source == "torchvision":
        build = functools.partial(torchvision_swin, version, window)
    else:
        build = functools.partial(hf_swin, version, shape[0], window)
    name = "swin_t" if version == 1 else "swin_v2_t_w8"
    if version == 2 and source == "torchvision":
        name = "swin_v2_t"
    return build, name, source, ours | options


SMALL = {
    "timm": swin("timm", 1, WHOLE, 2),
    "timm, loop": swin("timm", 1, WHOLE, 2, scan=False),
    "timm, wide": swin("timm", 1, WIDE, 2),
    "timm, not whole": swin("timm", 1, ODD, 3),
    "timm, small maps": swin("timm", 1, WIDE, 6),
    "torchvision, wide": swin("torchvision", 1, WIDE, 2),
    "torchvision, not whole": swin("torchvision", 1, ODD, 3),
    "torchvision, small maps": swin("torchvision", 1, WIDE, 6),
    "hf": swin("hf", 1, WHOLE, 2),
    "hf, not whole": swin("hf", 1, (36, 36), 4),
    "timm v2": swin("timm", 2, WHOLE, 2),
    "timm v2, not whole": swin("timm", 2, ODD, 3),
    "timm v2, small maps": swin("timm", 2, WIDE, 6),
    "timm v2, grown windows": swin("timm", 2, WHOLE, 4, trained_windows=(3, 2)),
    "torchvision v2": swin("torchvision", 2, WHOLE, 2),
    "torchvision v2, not whole": swin("torchvision", 2, ODD, 3),
    "torchvision v2, small maps": swin("torchvision", 2, WIDE, 6),
    "hf v2": swin("hf", 2, WHOLE, 2),
    "hf v2, small maps": swin("hf", 2, WHOLE, 8, windows="fitted"),
}


def make(member, dtype):
    build, name, source, options = SMALL[member]
    return peers.make_pair(build(), name, source=source, dtype=dtype, **options), build


@pytest.mark.parametrize(
    "member", ["timm", "torchvision, not whole", "hf", "timm v2", "torchvision v2", "hf v2"]
)
def test_small(member):
    pair, build = make(member, "float32")
    peers.check_forward(pair, build, peers.batch(*pair.model.config.image_shape)[0])


@pytest.mark.float64
@pytest.mark.parametrize(
    "member",
    peers.with_quick(SMALL, "timm", "hf", "torchvision v2", "hf v2"),
)
def test_small_in_float64(member):
    pair, build = make(member, "float64")
    peers.check_all(pair, *peers.batch(*pair.model.config.image_shape), steps=2)
    peers.assert_exports_back(pair, build())


def real_torchvision(name):
    model = torchvision.models.get_model(name, num_classes=peers.CLASSES)
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
    return model


def real_timm(name):
    return timm.create_model(name, num_classes=peers.CLASSES, drop_path_rate=0.0)


def real_hf(name):
    second = "swinv2" in name
    side, window = (256, 8) if second else (224, 7)
    config = transformers.Swinv2Config if second else transformers.SwinConfig
    build = (
        transformers.Swinv2ForImageClassification
        if second
        else transformers.SwinForImageClassification
    )
    return build(
        config(image_size=side, window_size=window, num_labels=peers.CLASSES, drop_path_rate=0.0)
    )


REAL = {"timm": real_timm, "torchvision": real_torchvision, "hf": real_hf}


@pytest.mark.float64
@pytest.mark.parametrize(
    ("source", "name", "shape"),
    [
        ("timm", "swin_tiny_patch4_window7_224", (224, 224)),
        ("torchvision", "swin_t", (160, 224)),
        ("hf", "microsoft/swin-tiny-patch4-window7-224", (224, 224)),
        ("timm", "swinv2_tiny_window16_256", (256, 256)),
        ("torchvision", "swin_v2_t", (160, 192)),
        ("hf", "microsoft/swinv2-tiny-patch4-window8-256", (256, 256)),
    ],
)
def test_as_published(source, name, shape):
    pair = peers.make_pair(REAL[source](name), name, source=source)
    peers.check_all(pair, *peers.batch(*shape, size=1), steps=1)
    peers.assert_exports_back(pair, REAL[source](name))


@pytest.mark.parametrize(
    ("window", "trained"), [((8, 8), 0), ((16, 16), 12), ((24, 24), 12), ((3, 4), 6)]
)
def test_index_and_coordinates_are_timms(window, trained):
    attention = timm.models.swin_transformer_v2.WindowAttention(
        8, window, 2, pretrained_window_size=(trained, trained)
    )
    index = attention.relative_position_index.numpy()
    np.testing.assert_array_equal(relative_position_index(window), index)
    theirs = attention.relative_coords_table.numpy().reshape(-1, 2)
    unit = (trained, trained) if trained else window
    np.testing.assert_array_equal(log_spaced_coordinates(window, unit), theirs)


@pytest.mark.parametrize("shift", [(1, 1), (2, 1), (0, 2)])
def test_mask_is_timms(shift):
    block = timm.models.swin_transformer.SwinTransformerBlock(
        8, (6, 12), 2, window_size=(3, 4), shift_size=shift
    )
    theirs = block.attn_mask.numpy() == 0.0
    np.testing.assert_array_equal(shift_mask((6, 12), (3, 4), shift)[:, 0], theirs)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch about timm
@pytest.mark.parametrize("size", [96, 160, (96, 224)])
@pytest.mark.parametrize("old", [7, 3, 12])
def test_tables_are_resampled_as_timm_does(size, old):
    config = SwinConfig(
        width=8,
        stage_depths=(1,),
        stage_heads=(2,),
        image_size=size,
        patch_size=16,
        window_size=12,
        windows="fitted",
    )
    window = config.stage_window(0)
    table = np.random.default_rng(0).standard_normal(((2 * old - 1) ** 2, 2)).astype(np.float32)
    shape = ((2 * window[0] - 1) * (2 * window[1] - 1), 2)
    theirs = timm.layers.resize_rel_pos_bias_table(peers.torch.from_numpy(table), window, shape)
    fitted = fit_table(table, shape, config, 16 * old, stage=0)
    assert fitted is not None
    np.testing.assert_allclose(fitted[0], theirs.numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch about timm
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(64, 64), (72, 56), (48, 48), (96, 96)])
def test_weights_at_another_size_make_the_model_that_timm_makes(version, size):
    """A quarter of 256, 288 x 224, 192 (whose last windows shrink) and 384, from 224."""
    from jaxvision.interop.assign import assign_weights
    from jaxvision.models.registry import create_model

    torch, trained = peers.torch, timm_swin(version, 56, 7)
    peers.randomise(trained)
    peer = timm_swin(version, size, 7, strict_img_size=False).eval()
    module = getattr(timm.models, "swin_transformer" + "_v2" * (version == 2))
    peer.load_state_dict(module.checkpoint_filter_fn(trained.state_dict(), peer))
    name = "swin_t" if version == 1 else "swin_v2_t_w8"
    options = {**OURS, "num_classes": peers.CLASSES, "image_size": size, "window_size": 7}
    weights = peers.arrays(trained.state_dict())
    model = create_model(name, rngs=nnx.Rngs(0), windows="fitted", **options)
    report = assign_weights(model, weights, source="timm", image_size=56)
    assert bool(report.adapted) == (version == 1 and size == (48, 48))
    images, _ = peers.batch(*size)
    images = images.astype(np.float32)
    with torch.no_grad():
        theirs = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = nnx.jit(lambda model, images: model(images))(model, images)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    padded = create_model(name, rngs=nnx.Rngs(0), **{**options, "windows": "padded"})
    if size in ((72, 56), (48, 48), (64, 64)):
        with pytest.raises(InputError, match="build the model with windows='fitted'"):
            assign_weights(padded, weights, source="timm", image_size=56)
