import jax.numpy as jnp
import numpy as np
import pytest
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop.adapt import fit_channels
from jaxvision.interop.assign import assign_weights, extract_weights

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3)), jnp.float32)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize(
    ("make", "format"),
    [
        (helpers.vit, "timm"),
        (helpers.vit, "torchvision"),
        (helpers.vit, "hf"),
        (helpers.deit, "timm"),
        (helpers.deit, "hf"),
        (helpers.resnet, "torchvision"),
        (helpers.resnet, "hf"),
    ],
)
def test_a_file_brings_every_bit_back(make, format, suffix, tmp_path):
    saved, loaded = make(seed=1), make(seed=2)
    path = tmp_path / f"weights{suffix}"
    jv.save_weights(saved, path, format=format)
    report = jv.load_weights(loaded, path)
    assert helpers.same(helpers.leaves(saved), helpers.leaves(loaded))
    assert report.source == format and not report.adapted and not report.left_out
    names = {name for name in extract_weights(saved, format=format) if "num_batches" not in name}
    assert set(report.loaded) == names
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_scan_and_loop_share_their_files():
    scanned, looped = helpers.vit(scan=True, seed=1), helpers.vit(scan=False, seed=2)
    weights = extract_weights(scanned)
    assign_weights(looped, weights)
    assert isinstance(looped.blocks[1].norm1.scale[...], jnp.ndarray)
    back = extract_weights(looped)
    assert set(back) == set(weights) and all(np.array_equal(back[n], weights[n]) for n in back)
    np.testing.assert_allclose(scanned(IMAGES), looped(IMAGES), atol=1e-6)


@pytest.mark.parametrize("make", [helpers.vit, helpers.resnet])
def test_a_head_for_other_classes_is_kept(make):
    weights = helpers.random_weights(make(num_classes=7))
    model = make(num_classes=3)
    before = np.asarray(model.head.kernel[...])
    report = assign_weights(model, weights)
    np.testing.assert_array_equal(model.head.kernel[...], before)
    assert "7 classes in the file, 3 in the model" in report.adapted["head"]
    assert sorted(n.rsplit(".")[-1] for n in report.left_out) == ["bias", "weight"]
    assert len(report.loaded) == sum("num_batches" not in name for name in weights) - 2
    assert "left out" in str(report) and "7 classes" in str(report)


def test_models_and_files_without_a_head():
    weights = helpers.random_weights(helpers.vit())
    report = assign_weights(helpers.vit(num_classes=0), weights)
    assert report.left_out == ("head.weight", "head.bias") and not report.adapted
    del weights["head.weight"]
    with pytest.raises(InputError, match="lacks 'head.weight'"):
        assign_weights(helpers.vit(), weights)
    del weights["head.bias"]
    report = assign_weights(helpers.vit(), weights)
    assert report.adapted == {"head": "the file has none, the model keeps its own"}


def test_positions_of_another_grid():
    weights = helpers.random_weights(helpers.vit())
    for size, grid in ((48, "6 x 6"), ((16, 40), "2 x 5")):
        model = helpers.vit(image_size=size)
        report = assign_weights(model, weights, image_size=32)
        assert report.adapted["pos_embed"] == f"positions resized from 4 x 4 to {grid}, bicubic"
        assert "pos_embed" in report.loaded
        np.testing.assert_array_equal(model.pos_embed[0, 0], weights["pos_embed"][0, 0])


def test_other_input_channels():
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    one, _ = fit_channels(kernel, (2, 2, 1, 4), None)
    np.testing.assert_allclose(one[:, :, 0], kernel.sum(2), rtol=1e-6)
    four, _ = fit_channels(kernel, (2, 2, 4, 4), None)
    np.testing.assert_allclose(four[:, :, 3], kernel[:, :, 0] * 0.75, rtol=1e-6)
    assert fit_channels(four, (2, 2, 4, 4), None) is None
    # A grey image, as RGB and as one channel, gives the same.
    grey = jnp.repeat(IMAGES[..., :1], 3, axis=-1)
    for make in (helpers.vit, helpers.resnet):
        weights = helpers.random_weights(make())
        weights = {n: np.abs(w) if "running_var" in n else w for n, w in weights.items()}
        colour, mono = make(), make(in_channels=1)
        assign_weights(colour, weights)
        report = assign_weights(mono, weights)
        assert list(report.adapted.values()) == ["3 input channels summed into 1"]
        expected = colour(grey)
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(mono(grey[..., :1]), expected, atol=1e-4 * scale)


@pytest.mark.parametrize("make", [helpers.resnet, helpers.vit])
@pytest.mark.parametrize("format", ["timm", "torchvision", "hf", "jaxvision"])
def test_a_head_with_a_hidden_layer_starts_new_behind_a_trunk_without(make, format):
    weights = extract_weights(make(seed=1), format=format)
    model = make(head_hidden=7)
    report = assign_weights(model, weights)
    assert set(report.adapted) == {"head", "head_hidden"} and len(report.left_out) == 2
    assert np.array_equal(model.head.kernel[...], make(head_hidden=7).head.kernel[...])
    own = extract_weights(model, format=format)  # and its own weights it reads
    report = assign_weights(make(head_hidden=7, seed=2), own)
    assert not report.adapted and not report.left_out
    report = assign_weights(make(head_hidden=7, num_classes=3), own)
    assert set(report.adapted) == {"head"}


def test_googles_pre_logits_are_the_pooler():
    model = helpers.vit(pooler=True)
    weights = helpers.random_weights(model, "augreg")
    assert weights["pre_logits/kernel"].shape == (16, 16)
    assert not assign_weights(model, weights).left_out
    with pytest.raises(InputError, match="no use for 'pre_logits/kernel'"):
        assign_weights(helpers.vit(), weights)  # its head would read something else
    report = assign_weights(helpers.vit(num_classes=3), weights)
    assert "pre_logits/kernel" in report.left_out


@pytest.mark.parametrize("shortcut", ["projection", "zero_padding"])
def test_programs_for_cifar_have_names_of_their_own(shortcut):
    model = helpers.resnet(stem="cifar", shortcut=shortcut)
    weights = helpers.random_weights(model, "akamaster")
    assert "linear.weight" in weights
    assert ("layer2.0.shortcut.0.weight" in weights) == (shortcut == "projection")
    assert assign_weights(model, weights).source == "akamaster"
    helpers.assert_equal(extract_weights(model, format="akamaster"), weights)


def test_source_is_told_by_the_names_or_by_the_user():
    weights = helpers.random_weights(helpers.vit(), "torchvision")
    assert assign_weights(helpers.vit(), weights).source == "torchvision"
    assert assign_weights(helpers.vit(), weights, source="torchvision").source == "torchvision"
    with pytest.raises(InputError, match="lacks 'cls_token'"):
        assign_weights(helpers.vit(), weights, source="timm")
    with pytest.raises(
        InputError, match="known from timm, torchvision, hf, augreg, jaxvision, got 'keras'"
    ):
        assign_weights(helpers.vit(), weights, source="keras")
    with pytest.raises(InputError, match="no ResNet of torchvision or .* or akamaster: 'class_tok"):
        assign_weights(helpers.resnet(), weights)


def test_the_names_of_torchvisions_published_files():
    weights = helpers.random_weights(helpers.vit(), "torchvision")
    old = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): array
        for name, array in weights.items()
    }
    new, published = helpers.vit(), helpers.vit()
    assign_weights(new, weights)
    report = assign_weights(published, old)
    assert helpers.same(helpers.leaves(new), helpers.leaves(published))
    assert "encoder.layers.encoder_layer_1.mlp.linear_2.bias" in report.loaded


@pytest.mark.parametrize("make", [helpers.vit, helpers.resnet])
def test_a_model_that_raises_is_as_before(make):
    model = make()
    weights = helpers.random_weights(make(seed=1))
    before, logits = helpers.leaves(model), model(IMAGES)
    for name in list(weights)[::7]:
        if "num_batches" in name:
            continue
        for change in (
            {name + "x": weights[name]},
            {name: weights[name][..., None]},
            {"unknown": weights[name]},
        ):
            broken = {n: w for n, w in weights.items() if n != name or name + "x" not in change}
            with pytest.raises(InputError, match="do not fit the model"):
                assign_weights(model, broken | change)
    assert helpers.same(before, helpers.leaves(model))
    np.testing.assert_array_equal(logits, model(IMAGES))


@pytest.mark.parametrize(
    ("model", "format", "message"),
    [
        (lambda: helpers.vit(layer_scale_init=0.1), "torchvision", "with layer_scale_init=0.1"),
        (lambda: helpers.vit(pool="average"), "torchvision", "with pool='average'"),
        (lambda: helpers.vit(stem="conv"), "timm", "with stem='conv'"),
        (lambda: helpers.vit(position="sincos2d"), "timm", "position='learned' or use another"),
        (lambda: helpers.resnet(plain=True), "timm", "with plain=True"),
        (lambda: helpers.resnet(shortcut="zero_padding"), "timm", "shortcut='zero_padding'"),
        (lambda: helpers.resnet(), "akamaster", "with stem='imagenet'"),
        (lambda: helpers.vit(), "onnx", "known from timm, torchvision, hf, augreg, jaxvision, got"),
    ],
)
def test_models_that_the_library_does_not_have(model, format, message, tmp_path):
    with pytest.raises(InputError, match=message):
        jv.save_weights(model(), tmp_path / "out.npz", format=format)
    assert not list(tmp_path.iterdir())


def test_other_modules_are_refused():
    with pytest.raises(InputError, match="belong to models of create_model, got a Conv"):
        assign_weights(helpers.resnet().stem.conv, {})


def test_average_pooling_has_its_own_name():
    model = helpers.vit(pool="average", class_token=False)
    names = extract_weights(model)
    assert "fc_norm.weight" in names and "norm.weight" not in names and "cls_token" not in names


def test_a_lower_precision_file_is_read_exactly():
    weights = helpers.random_weights(helpers.vit())
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    model = helpers.vit()
    assign_weights(model, half)
    assert model.head.kernel[...].dtype == jnp.float32
    np.testing.assert_array_equal(model.head.kernel[...].T, half["head.weight"])


def test_both_heads_of_a_deit_are_kept_for_other_classes():
    weights = helpers.random_weights(helpers.deit(num_classes=7))
    report = assign_weights(helpers.deit(num_classes=3), weights)
    assert set(report.adapted) == {"head", "head_dist"}
    assert set(report.left_out) == {
        "head.weight",
        "head.bias",
        "head_dist.weight",
        "head_dist.bias",
    }
    report = assign_weights(helpers.deit(num_classes=0), weights)
    assert len(report.left_out) == 4 and not report.adapted


def test_a_deit_keeps_a_head_that_the_file_has_not():
    weights = helpers.random_weights(helpers.deit())
    del weights["head_dist.weight"], weights["head_dist.bias"]
    model = helpers.deit()
    before = np.asarray(model.head_dist.kernel[...])
    report = assign_weights(model, weights)
    assert report.adapted == {"head_dist": "the file has none, the model keeps its own"}
    np.testing.assert_array_equal(model.head_dist.kernel[...], before)
    np.testing.assert_array_equal(model.head.kernel[...].T, weights["head.weight"])


def test_positions_behind_two_tokens_and_behind_none():
    weights = helpers.random_weights(helpers.deit())
    report = assign_weights(model := helpers.deit(image_size=48), weights)
    assert report.adapted["pos_embed"] == "positions resized from 4 x 4 to 6 x 6, bicubic"
    np.testing.assert_array_equal(model.pos_embed[0, :2], weights["pos_embed"][0, :2])
    options = {"class_token_position": False, "layer_scale_init": 1e-6}
    weights = helpers.random_weights(helpers.vit(**options))
    assert weights["pos_embed"].shape == (1, 16, 16)
    report = assign_weights(helpers.vit(image_size=48, **options), weights)
    assert report.adapted["pos_embed"] == "positions resized from 4 x 4 to 6 x 6, bicubic"


@pytest.mark.parity
def test_the_report_says_which_weights_of_a_checkpoint_were_taken(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        name: torch.from_numpy(array)
        for name, array in helpers.random_weights(helpers.vit()).items()
    }
    averaged = {"module." + name: tensor + 1 for name, tensor in tensors.items()}
    torch.save({"model": tensors, "model_ema": averaged, "epoch": 3}, tmp_path / "w.pth")
    plain, mean = helpers.vit(), helpers.vit()
    assert jv.load_weights(plain, tmp_path / "w.pth").wrapper == "model"
    report = jv.load_weights(mean, tmp_path / "w.pth", ema=True)
    assert report.wrapper == "model_ema" and "from 'model_ema'" in str(report)
    np.testing.assert_array_equal(mean.norm.bias[...], averaged["module.norm.bias"].numpy())
    np.testing.assert_array_equal(plain.norm.bias[...], tensors["norm.bias"].numpy())
