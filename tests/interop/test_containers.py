"""Where the weights lie in files of the programs that people train with."""

import argparse
import collections

import finished_run
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop.trained import open_trained
from jaxvision.train.init_from import load_initial

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


class Node(dict):
    """Stands for yacs' CfgNode."""


def weights(make=helpers.vit, seed=0):
    random = helpers.random_weights(make(), seed=seed)
    return {name: torch.from_numpy(array) for name, array in random.items()}


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def projector(prefix):
    return under(prefix, {"0.weight": torch.ones(4, 16), "1.running_mean": torch.ones(4)})


def without_head(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


V, W = weights(), weights(seed=1)
V_BARE, W_BARE = without_head(V), without_head(W)
LOSS = {"criterion.weight": torch.ones(5), "loss.margin": torch.ones(1)}
META = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}}
ARGS = {"args": argparse.Namespace(lr=0.1)}
LIGHTNING = {"pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 1}, "callbacks": {}}
DINO = {
    "student": under("module.backbone.", V_BARE) | projector("module.head.mlp."),
    "teacher": under("backbone.", W_BARE) | projector("head.mlp."),
    "epoch": 3,
    "args": argparse.Namespace(),
    "dino_loss": collections.OrderedDict(center=torch.ones(1, 3)),
}
MOCO = {
    "state_dict": under("module.base_encoder.", V_BARE)
    | projector("module.base_encoder.head.")
    | under("module.momentum_encoder.", W_BARE)
    | projector("module.momentum_encoder.head.")
    | projector("module.predictor."),
    "arch": "vit_small",
    "scaler": {},
} | META

# what is saved, the place that is reported, names that are left out; all of them hold V
READ = {
    "plain": (V, None, ()),
    "DataParallel": (under("module.", V), None, ()),
    "compiled": (under("_orig_mod.", V), None, ()),
    "compiled and parallel": (under("module._orig_mod.", V), None, ()),
    "AveragedModel": ({"n_averaged": torch.tensor(3), **under("module.", V)}, None, ()),
    "torchvision's script": ({"model": V, "model_ema": under("module.", W), **META, **ARGS},
                             "model", ()),
    "timm": ({"state_dict": V, "state_dict_ema": W, "arch": "vit"} | META | ARGS, "state_dict", ()),
    "Swin, ConvNeXt": ({"model": V, "config": Node(a=Node(b=1)), "max_accuracy": 1.0}, "model", ()),
    "ema only": ({"model_ema": V}, "model_ema", ()),
    "params_ema": ({"params": V, "params_ema": W}, "params", ()),
    "nested": ({"model": {"state_dict": V}, "x": 1}, "model.state_dict", ()),
    "net": ({"net": under("module.", V), "acc": 93.1, "epoch": 3}, "net", ()),
    "network": ({"network": V}, "network", ()),
    "any name": ({"blah": V, "rng": torch.ones(9)}, "blah", ()),
    "Lightning": ({"state_dict": under("model.", V) | LOSS} | LIGHTNING, "state_dict.model", LOSS),
    "Lightning net": ({"state_dict": under("net.", V)} | LIGHTNING, "state_dict.net", ()),
    "Lightning ema": (
        {"state_dict": under("model.", V) | under("ema_model.", W)},
        "state_dict.model",
        (f"ema_model.* ({len(W)} arrays)",),
    ),
    "same weights twice": ({"state_dict": under("model.", V) | under("net.", V)},
                           "state_dict.model", (f"net.* ({len(V)} arrays)",)),
    "timm_model": (under("timm_model.", V), "timm_model", ()),
    "deep": (under("module.model.image_encoder.", V), "model.image_encoder", ()),
    "visual": (under("visual.", V) | {"text.weight": torch.ones(2)}, "visual", ("text.weight",)),
    "backbone": (under("backbone.", V_BARE) | {"fc.bias": torch.ones(3)}, "backbone", ("fc.bias",)),
    "MAE": (
        {"model": V_BARE | {"mask_token": torch.ones(1), "decoder_pred.bias": torch.ones(2)}},
        "model",
        ("mask_token", "decoder_pred.bias"),
    ),
    "MAE fine-tuned": ({"model": V, "scaler": {"scale": 1.0}} | ARGS, "model", ()),
}  # fmt: skip


MODEL = helpers.vit(seed=3)


def fresh():
    """Returns a model that holds neither V nor W."""
    for array in (MODEL.norm.bias, MODEL.cls_token):
        array[...] = jnp.zeros_like(array[...])
    return MODEL


def holds(model, state):
    """Whether all of a model but its head is that of a state_dict."""
    return np.array_equal(model.norm.bias[...], state["norm.bias"].numpy()) and np.array_equal(
        model.cls_token[...], state["cls_token"].numpy()
    )


@pytest.mark.parametrize(("saved", "place", "left_out"), READ.values(), ids=READ)
def test_containers_and_prefixes(saved, place, left_out, tmp_path):
    torch.save(saved, tmp_path / "w")
    model = fresh()
    report = jv.load_weights(model, tmp_path / "w")
    assert holds(model, V)
    assert report.wrapper == place and report.left_out == tuple(left_out)
    assert (f"from {place!r}" in str(report)) == (place is not None)


ASKED = {
    "DINO": (DINO, ["student", "teacher"]),
    "MoCo v3": (MOCO, ["base_encoder", "momentum_encoder"]),
    "best": ({"state_dict": V, "best_state_dict": W}, ["state_dict", "best_state_dict"]),
    "two backbones": (under("a.net.", V) | under("b.net.", W), ["a", "b"]),
    "top": (V | {"teacher": W}, ["top", "teacher"]),
}


@pytest.mark.parametrize(("saved", "parts"), ASKED.values(), ids=ASKED)
def test_which_of_two_is_asked_for_in_one_sentence(saved, parts, tmp_path):
    torch.save(saved, tmp_path / "w")
    with pytest.raises(InputError, match="fit in 2 parts, .* say which, e.g. part=") as error:
        jv.load_weights(fresh(), tmp_path / "w")
    assert f'part="{parts[1]}" (--part, config.model.init_part)' in str(error.value)
    for part, state in zip(parts, (V, W), strict=True):
        model = fresh()
        report = jv.load_weights(model, tmp_path / "w", part=part)
        assert holds(model, state)
        assert part == "top" or part in report.wrapper.split(".")
    with pytest.raises(InputError, match=r"no weights that fit in a part 'other', but in '"):
        jv.load_weights(fresh(), tmp_path / "w", part="other")


def test_the_part_on_the_command_line_and_in_a_config(tmp_path):
    saved = {"student": under("backbone.", V), "teacher": under("backbone.", W)}
    torch.save(saved, tmp_path / "w")
    build = helpers.vit
    params, _ = load_initial(lambda rngs: build(), str(tmp_path / "w"), part="teacher", seed=0)
    np.testing.assert_array_equal(params["norm"]["bias"], W["norm.bias"].numpy())
    with pytest.raises(InputError, match="config.model.init_from: .*say which, e.g. part="):
        load_initial(lambda rngs: build(), str(tmp_path / "w"), seed=0)
    trained = open_trained(str(tmp_path / "w"), "vit_ti16", part="teacher", **helpers.VIT)
    assert holds(trained.model, W) and "from 'teacher.backbone'" in trained.report


def test_projectors_are_left_out_and_the_head_is_kept(tmp_path):
    torch.save(MOCO, tmp_path / "moco")
    model = fresh()
    before = np.asarray(model.head.kernel[...])
    report = jv.load_weights(model, tmp_path / "moco", part="base_encoder")
    assert report.wrapper == "state_dict.base_encoder"
    assert report.adapted == {"head": "the file has none, the model keeps its own"}
    assert "module.base_encoder.head.0.weight" in report.left_out
    np.testing.assert_array_equal(model.head.kernel[...], before)
    torch.save(DINO, tmp_path / "dino")
    report = jv.load_weights(model, tmp_path / "dino", part="teacher")
    assert report.left_out == ("head.mlp.0.weight", "head.mlp.1.running_mean")


@pytest.mark.parametrize(
    ("saved", "place"),
    [
        ({"model": V, "model_ema": under("module.", W)}, "model_ema"),
        ({"state_dict": V, "state_dict_ema": W}, "state_dict_ema"),
        ({"model": V, "ema": {"shadow": W}}, "ema.shadow"),
        ({"state_dict": under("model.", V) | under("ema_model.", W)}, "state_dict.ema_model"),
        ({"params": V, "params_ema": W}, "params_ema"),
    ],
)
def test_averaged_weights_by_ema_or_by_name(saved, place, tmp_path):
    torch.save(saved, tmp_path / "w")
    for choice in ({"ema": True}, {"part": place}, {"part": place.split(".")[-1]}):
        model = fresh()
        assert jv.load_weights(model, tmp_path / "w", **choice).wrapper == place
        assert holds(model, W)


@pytest.mark.filterwarnings("ignore")  # timm is deprecated by torch
def test_the_real_wrappers_of_torch(tmp_path):
    timm = pytest.importorskip("jaxvision.parity.torchvision_import") and pytest.importorskip(
        "timm"
    )
    net = timm.create_model("resnet18", num_classes=5)
    model = jv.create_model("resnet18", num_classes=5, rngs=helpers.nnx.Rngs(0))
    mean = torch.optim.swa_utils.AveragedModel(net)
    for wrapped in (torch.nn.DataParallel(net), mean, torch.compile(net)):
        torch.save(wrapped.state_dict(), tmp_path / "w")
        assert jv.load_weights(model, tmp_path / "w").wrapper is None
    np.testing.assert_array_equal(model.head.bias[...], net.fc.bias.detach().numpy())
    torch.save({"net": net, "ema": mean}, tmp_path / "whole")
    assert jv.load_weights(model, tmp_path / "whole").wrapper == "net"


def test_other_formats_have_prefixes_too(tmp_path):
    state = {f"encoder.{name}": tensor.numpy() for name, tensor in V.items()}
    safetensors.numpy.save_file(state, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **state)
    for name in ("w.safetensors", "w.npz"):
        model = fresh()
        assert jv.load_weights(model, tmp_path / name).wrapper == "encoder"
        assert holds(model, V)


def test_placeholders_among_the_weights_are_refused(tmp_path):
    saved = V | {"norm.bias": argparse.Namespace(), "_extra_state": argparse.Namespace()}
    torch.save({"model": under("net.", saved)}, tmp_path / "w")
    model = fresh()
    before = helpers.leaves(model)
    with pytest.raises(InputError, match="'norm.bias' is an object of argparse.Namespace"):
        jv.load_weights(model, tmp_path / "w")
    assert helpers.same(before, helpers.leaves(model))


def test_an_unknown_name_beside_the_known_ones_is_still_an_error(tmp_path):
    for prefix in ("", "model."):
        torch.save(under(prefix, V | {"norm.gain": torch.ones(3)}), tmp_path / "w")
        with pytest.raises(InputError, match="no use for 'norm.gain'"):
            jv.load_weights(fresh(), tmp_path / "w")


def test_files_of_other_models_are_not_taken_apart(tmp_path):
    """A block of a Swin looks like one of a ViT."""
    swin = {"layers.0.blocks.0.norm1.weight": torch.ones(16), "head.weight": torch.ones(5, 16)}
    torch.save(under("module.", swin), tmp_path / "w")
    with pytest.raises(InputError, match="lacks 'cls_token'"):
        jv.load_weights(fresh(), tmp_path / "w")


def test_parts_of_a_run_are_refused(tmp_path):
    finished_run.write(tmp_path)
    with pytest.raises(InputError, match="is a run, which has no part 'teacher'"):
        jv.load_weights(fresh(), tmp_path, part="teacher")


def test_the_table_of_dtypes_is_kept(tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in V.items()}
    torch.save({"state_dict": under("model.", state)}, tmp_path / "w")
    model = fresh()
    jv.load_weights(model, tmp_path / "w")
    expected = state["norm.bias"].float().numpy()
    np.testing.assert_array_equal(model.norm.bias[...], jnp.asarray(expected))
