"""Positions are of the grid that somebody names; none is guessed but squares for squares."""

import finished_run
import numpy as np
import pytest
from flax import nnx
from interop import helpers
from opening import make_run, train

import jaxvision as jv
import jaxvision.parity.torchvision_import  # noqa: F401 - before timm
from configs import smoke
from jaxvision.__main__ import main
from jaxvision.errors import InputError
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.interop.read import read_file_or_run
from jaxvision.interop.trained import open_trained
from jaxvision.models.registry import create_model

HYBRID = {
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 5,
    "stem_width": 32,
    "stage_depths": (1,),
    "stage_widths": (32,),
    "patch_size": 8,
}
PVT = {
    "stage_depths": (1, 1),
    "stage_widths": (8, 16),
    "stage_heads": (1, 2),
    "mlp_ratios": (2, 2),
    "reduction_ratios": (2, 1),
    "num_classes": 5,
}


def pvt(seed=0, **options):
    return create_model("pvt_tiny", rngs=nnx.Rngs(seed), **PVT | options)


def small(weights):
    """Returns the weights with positions as large as trained ones."""
    return {n: w * np.float32(0.1) if "pos" in n else w for n, w in weights.items()}


def resized(table, prefix, old, new, **options):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    # In float64: the measure, not another float32 calculation.
    table = torch.from_numpy(np.asarray(table, np.float64))
    resize = timm.layers.resample_abs_pos_embed
    return resize(table, list(new), list(old), num_prefix_tokens=prefix, **options).numpy()


@pytest.mark.parity
@pytest.mark.parametrize("make", [helpers.vit, helpers.deit])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((32, 32), (16, 64)),  # equal counts
        ((64, 32), (32, 64)),
        ((16, 64), (32, 32)),
        ((96, 96), (72, 128)),
        ((40, 24), (48, 48)),
    ],
)
def test_positions_are_those_that_timm_makes_of_the_true_grid(make, old, new):
    weights = small(helpers.random_weights(make(image_size=old)))
    model = make(image_size=new)
    report = assign_weights(model, weights, image_size=old)
    old, new = ((height // 8, width // 8) for height, width in (old, new))
    said = f"positions resized from {old[0]} x {old[1]} to {new[0]} x {new[1]}, bicubic"
    assert report.adapted == {"pos_embed": said}
    prefix = model.config.num_prefix_positions
    expected = resized(weights["pos_embed"], prefix, old, new)
    np.testing.assert_allclose(model.pos_embed[...], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "old", "new", "said"),
    [
        (helpers.vit, (16, 64), (32, 32), None),  # 2 x 8 looks like 4 x 4
        (helpers.vit, (32, 32), (16, 64), "have 16 positions.*the model wants 2 x 8: give"),
        (helpers.vit, (16, 64), (16, 64), "have 16 positions.*the model wants 2 x 8: give"),
        (helpers.vit, (24, 32), (32, 32), "have 12 positions.*the model wants 4 x 4: give"),
        (helpers.deit, (64, 32), (32, 64), "have 32 positions.*the model wants 4 x 8: give"),
        (pvt, (32, 32), (16, 64), "have 64 positions.*the model wants 4 x 16: give"),
    ],
)
def test_a_grid_that_nobody_tells_is_refused(make, old, new, said):
    weights = helpers.random_weights(make(image_size=old), "hf")
    if said is None:  # nobody can see this: a square for a square
        assert not assign_weights(make(image_size=new), weights).adapted
        return
    model = make(image_size=new, seed=1)
    before = helpers.leaves(model)
    with pytest.raises(InputError, match=said):
        assign_weights(model, weights)
    assert helpers.same(before, helpers.leaves(model))
    report = assign_weights(model, weights, image_size=old)
    assert bool(report.adapted) == (old != new)


def test_an_image_size_that_the_weights_contradict():
    weights = helpers.random_weights(helpers.vit())
    with pytest.raises(InputError, match="have 16 positions.*48 pixels are 6 x 6 patches"):
        assign_weights(helpers.vit(), weights, image_size=48)
    with pytest.raises(InputError, match="cannot belong to images of image_size=30: .*patches of"):
        assign_weights(helpers.vit(), weights, image_size=30)
    # What is wrong first is that it is another model.
    with pytest.raises(InputError, match="no use for 'dist_token'"):
        assign_weights(helpers.vit(), helpers.random_weights(helpers.deit()), image_size=32)


def test_the_same_grid_is_taken_bit_for_bit():
    saved, loaded = helpers.vit(image_size=(16, 64)), helpers.vit(seed=1, image_size=(16, 64))
    weights = extract_weights(saved)
    assert not assign_weights(loaded, weights, image_size=(16, 64)).adapted
    assert helpers.same(helpers.leaves(saved), helpers.leaves(loaded))


@pytest.mark.parity
def test_every_stage_of_a_pvt_has_its_own_grid():
    weights = small(helpers.random_weights(pvt(image_size=(32, 64)), "hf"))
    model = pvt(image_size=(64, 32))
    report = assign_weights(model, weights, image_size=(32, 64))
    for stage, prefix in ((0, 0), (1, 1)):
        old, new = (8 >> stage, 16 >> stage), (16 >> stage, 8 >> stage)
        said = f"positions resized from {old[0]} x {old[1]} to {new[0]} x {new[1]}, bilinear"
        assert report.adapted[f"stages/{stage}/pos_embed"] == said
        table = weights[f"pvt.encoder.patch_embeddings.{stage}.position_embeddings"]
        how = {"interpolation": "bilinear", "antialias": False}
        expected = resized(table, prefix, old, new, **how)
        np.testing.assert_allclose(model.stages[stage].pos_embed[...], expected, atol=1e-6)


@pytest.mark.parity
def test_a_hybrid_counts_the_strides_of_its_stem():
    def make(**options):
        return create_model("vit_r_ti16", rngs=nnx.Rngs(0), **HYBRID | options)

    weights = small(helpers.random_weights(make(image_size=(32, 64))))
    report = assign_weights(model := make(image_size=(64, 32)), weights, image_size=(32, 64))
    assert report.adapted == {"pos_embed": "positions resized from 4 x 8 to 8 x 4, bicubic"}
    expected = resized(weights["pos_embed"], 1, (4, 8), (8, 4))
    np.testing.assert_allclose(model.pos_embed[...], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch about timm
def test_tables_of_windows_that_nobody_tells():
    def make(size):
        options = {"width": 24, "stage_depths": (2, 2), "stage_heads": (3, 6), "num_classes": 5}
        options |= {"window_size": 8, "windows": "fitted", "image_size": size}
        return create_model("swin_t", rngs=nnx.Rngs(0), **options)

    weights = helpers.random_weights(make((16, 64)))  # windows of 4 x 8, then 2 x 8
    assert not assign_weights(make((16, 64)), weights, image_size=(16, 64)).adapted
    model = make((64, 16))
    with pytest.raises(InputError, match="have 105 relative positions in stage 0.*are 8 x 4: give"):
        assign_weights(model, weights)
    with pytest.raises(InputError, match="no windows at image_size=64 have so many"):
        assign_weights(model, weights, image_size=64)
    report = assign_weights(model, weights, image_size=(16, 64))
    assert report.adapted["stages/0/blocks/0/position_bias/table"] == (
        "position biases of windows of 4 x 8 resampled for 8 x 4"
    )
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    for stage, (old, new) in enumerate([((4, 8), (8, 4)), ((2, 8), (8, 2))]):
        table = weights[f"layers.{stage}.blocks.1.attn.relative_position_bias_table"]
        shape = ((2 * new[0] - 1) * (2 * new[1] - 1), table.shape[1])
        theirs = timm.layers.resize_rel_pos_bias_table(torch.from_numpy(table), new, shape, old)
        ours = model.stages[stage].blocks.position_bias.table[...][1]
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


# --- Our own runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A run of images of 16 x 64 pixels, 2 x 8 patches."""
    folder = tmp_path_factory.mktemp("wide")
    return folder, *finished_run.write(folder, data__image_size=(16, 64))


def test_a_run_says_which_size_its_images_have(wide):
    folder, run, state = wide
    assert read_file_or_run(folder).image_size == (16, 64)
    table = state.ema_params["pos_embed"]
    same = run.build(nnx.Rngs(1))
    assert not jv.load_weights(same, folder).adapted
    np.testing.assert_array_equal(same.pos_embed[...], table)
    square = helpers.vit(image_size=32)
    report = jv.load_weights(square, folder)
    assert report.adapted["pos_embed"] == "positions resized from 2 x 8 to 4 x 4, bicubic"
    np.testing.assert_array_equal(open_trained(str(folder)).model.pos_embed[...], table)
    with pytest.raises(InputError, match="16 positions.*24 pixels are 3 x 3 patches"):
        jv.load_weights(square, folder, image_size=24)


def test_the_encoder_of_a_captioner_has_a_grid_too():
    weights = extract_weights(captioner((16, 64)), format="jaxvision")
    report = assign_weights(captioner((64, 16)), weights, image_size=(16, 64))
    assert report.adapted == {"encoder/pos_embed": "positions resized from 2 x 8 to 8 x 2, bicubic"}
    with pytest.raises(InputError, match="have 16 positions.*the model wants 8 x 2"):
        assign_weights(captioner((64, 16)), weights)


def captioner(size):
    options = {"width": 16, "depth": 1, "num_heads": 2, "vocab_size": 11, "max_length": 5}
    encoder = tuple(finished_run.VIT.items())
    return create_model(
        "captioner",
        rngs=nnx.Rngs(0),
        encoder="vit_ti16",
        encoder_options=encoder,
        image_size=size,
        **options,
    )


def test_a_file_is_converted_at_the_size_that_the_command_is_told(tmp_path, capsys):
    wide = (224, 448)
    weights = helpers.random_weights(create_model("vit_ti16", rngs=nnx.Rngs(0), image_size=wide))
    np.savez(tmp_path / "in.npz", **weights)
    convert = ["convert", str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), "--model=vit_ti16"]
    assert main([*convert, "--format=timm"]) == 2
    assert "have 392 positions" in capsys.readouterr().err
    assert main([*convert, "--format=timm", "--weights-size=224x448"]) == 0
    helpers.assert_equal(dict(np.load(tmp_path / "out.npz")), weights)
    model = open_trained(str(tmp_path / "in.npz"), "vit_ti16", weights_size=wide)
    assert "positions resized from 14 x 28 to 14 x 14, bicubic" in model.report


def test_a_run_starts_from_a_file_whose_images_it_is_told(wide, tmp_path):
    jv.save_weights(helpers.vit(image_size=(16, 64)), tmp_path / "w.safetensors")
    config = smoke.get_config()
    config.model.name, config.model.kwargs = "vit_ti16", finished_run.VIT
    config.data.image_size = (64, 16)
    config.model.init_from = str(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"config.model.init_from: The weights have 16 positions"):
        make_run(config).initial_weights()
    config.model.init_image_size = (16, 64)
    params, _ = make_run(config).initial_weights()
    assert params["pos_embed"].shape == (1, 17, 16)
    with config.unlocked():
        config.model.init_image_size = "big"
    with pytest.raises(InputError, match="init_image_size must be pixels up to 16384"):
        train(config, tmp_path / "run")
