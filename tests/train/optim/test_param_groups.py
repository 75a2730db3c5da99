import jax
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.layers.norm import BatchNorm
from jaxvision.models.image_model import LayerGroups
from jaxvision.models.registry import get_spec
from jaxvision.train.optim.freeze import build_with_frozen_stats
from jaxvision.train.optim.layer_depth import layer_numbers
from jaxvision.train.optim.optimizer import decay_mask, not_decayed_names
from jaxvision.train.optim.param_groups import PRESETS, ParamGroup, assign_groups, param_names
from jaxvision.train.optim.update import frozen_batch_norms
from jaxvision.train.state import abstract_model


def shapes(name, **options):
    return abstract_model(lambda rngs: jv.create_model(name, rngs=rngs, **options))[1]


def layer_groups(name):
    """Returns what a model's class says of its layers."""
    return get_spec(name).build.layer_groups


def not_decayed(name):
    return not_decayed_names(nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0))))


def smallest_members():
    """Returns {family: its smallest member}."""
    members = {}
    for name in jv.list_models():
        spec = get_spec(name)
        if name.startswith(("cifar_resnet", "airbench")):
            continue  # three stages, and three quarters of them are all
        best = members.setdefault(spec.family, spec)
        members[spec.family] = min(best, spec, key=lambda s: (s.num_params, s.name))
    return {family: spec.name for family, spec in members.items()}


SMALLEST = smallest_members()
USUAL = LayerGroups()


def trained(params, preset, layer_groups=USUAL):
    groups = assign_groups(params, layer_groups=layer_groups, preset=preset)
    assert groups.keys() == param_names(params).keys()
    return {name for name, group in groups.items() if group.start_step == 0}


def size(names, params):
    counts = {name: int(np.prod(x.shape)) for name, x in param_names(params).items()}
    return sum(counts[name] for name in names)


@pytest.mark.parametrize("family", SMALLEST)
def test_presets_grow_from_the_head_in_every_family(family):
    params, groups = shapes(SMALLEST[family], num_classes=10), layer_groups(SMALLEST[family])
    sets = [trained(params, preset, groups) for preset in ("head", "late", "half", "most")]
    everything = set(param_names(params))
    assert all(name.startswith("head") for name in sets[0]) and sets[0]
    for smaller, larger in zip(sets, [*sets[1:], everything], strict=True):
        assert smaller < larger
    assert not any(name.startswith(("stem", "patch_embed", "stages/0/")) for name in sets[3])
    assert trained(params, "full", groups) == everything
    slow = assign_groups(params, layer_groups=groups, preset="full_low_lr")
    assert {n for n, g in slow.items() if g.learning_rate == 1.0} == sets[0]
    assert {g.learning_rate for g in slow.values()} == {0.1, 1.0}


# ResNet-50: stem 9,536; stages 215,808, 1,219,584, 7,098,368 and 14,964,736; head 2,049,000.
@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("head", 2_049_000),
        ("late", 17_013_736),
        ("half", 24_112_104),
        ("most", 25_331_688),
        ("full", 25_557_032),
    ],
)
def test_presets_of_resnet50(preset, parameters):
    params = shapes("resnet50")
    assert size(trained(params, preset), params) == parameters


def test_presets_of_a_vit_go_by_blocks():
    params = shapes("vit_ti16")
    for preset, first in (("late", 9), ("half", 6), ("most", 3)):
        blocks = {n.split("/")[1] for n in trained(params, preset) if n.startswith("blocks")}
        assert blocks == {str(i) for i in range(first, 12)}


def test_presets_of_a_captioner_take_all_but_the_encoder_for_the_head():
    params = shapes(
        "captioner",
        vocab_size=20,
        encoder="vit_ti16",
        encoder_options=(("depth", 4), ("width", 48)),
        image_size=32,
    )
    head = trained(params, "head")
    assert head == {name for name in param_names(params) if not name.startswith("encoder/")}
    assert {n for n in trained(params, "late") - head if "blocks" in n} == {
        name for name in param_names(params) if name.startswith("encoder/blocks/3/")
    }


# REFERENCE 5.7, measured on timm: model, layers, smallest multiplier, decayed, others.
@pytest.mark.parametrize(
    ("name", "layers", "least", "decayed", "others"),
    [
        ("vit_b16", 14, 0.023757, 86_292_480, 275_176),
        ("vit_ti16", 14, 0.023757, 5_647_872, 69_544),
        ("resnet50", 18, 0.007517, 25_502_912, 54_120),
        ("efficientnet_b0", 18, 0.007517, 5_236_192, 52_356),
        ("mobilenet_v3_large", 18, 0.007517, 5_451_272, 31_760),
        ("mobilenet_v2", 19, 0.005638, 3_469_760, 35_112),
        ("swin_t", 14, 0.023757, 28_199_424, 88_930),
        ("pvt_v2_b0", 6, 0.237305, 3_642_720, 24_040),
    ],
)
def test_layer_decay_golden(name, layers, least, decayed, others):
    params = shapes(name)
    groups = assign_groups(params, layer_groups=layer_groups(name), layer_decay=0.75)
    rates = {group.learning_rate for group in groups.values()}
    assert len(rates) == layers and max(rates) == 1.0
    assert min(rates) == pytest.approx(least, abs=5e-7)
    assert {g.learning_rate for n, g in groups.items() if n.startswith("head")} == {1.0}
    counts = {True: 0, False: 0}
    for x, decays in zip(
        *map(jax.tree.leaves, (params, decay_mask(params, not_decayed(name)))), strict=True
    ):
        counts[decays] += x.size
    assert (counts[True], counts[False]) == (decayed, others)


@pytest.mark.parity
@pytest.mark.parametrize(
    "name",
    [
        *("vit_ti16", "deit_ti16_distilled", "vit_r_ti16", "resnet18", "resnet50", "convnext_tiny"),
        *("swin_t", "swin_v2_t_w16", "mobilenet_v1", "mobilenet_v2", "mobilenetv3_large_100"),
        *("mobilenetv3_small_050", "efficientnet_b0", "efficientnet_lite0", "pvt_v2_b0"),
    ],
)
def test_layers_are_those_of_timm(name):
    import timm
    import torch
    from timm.optim import _param_groups

    from jaxvision.interop.assign import weight_names

    spec = get_spec(name)
    with torch.device("meta"):
        peer = timm.create_model(spec.timm)
    groups = _param_groups.param_groups_layer_decay(
        peer,
        layer_decay=0.75,
        no_weight_decay_list=peer.no_weight_decay() if hasattr(peer, "no_weight_decay") else (),
    )
    names = {id(p): n for n, p in peer.named_parameters()}
    theirs = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    model = nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0)))
    _, params, _ = nnx.split(model, nnx.Param, nnx.BatchStat)
    params = nnx.to_pure_dict(params)
    ours = assign_groups(params, layer_groups=layer_groups(name), layer_decay=0.75)
    seen = set()
    for peer_name, paths in weight_names(model, format="timm").items():
        if peer_name in theirs:
            for path in paths:
                assert ours[path].learning_rate == pytest.approx(theirs[peer_name]), path
                seen.add(path)
    assert seen == ours.keys()


def test_layers_rise_through_every_family():
    for name in SMALLEST.values():
        numbers = layer_numbers(param_names(shapes(name)), layer_groups(name))
        assert set(numbers.values()) == set(range(max(numbers.values()) + 1)), name
        head = {numbers[n] for n in numbers if n.startswith("head")}
        classes = get_spec(name).config.num_classes  # 0 of DINOv2
        assert head == ({max(numbers.values())} if classes else set())
        assert min(numbers.values()) == 0


SMALL = {"width": 16, "depth": 4, "num_heads": 2, "image_size": 32, "num_classes": 3}


def assign(**options):
    return assign_groups(shapes("vit_ti16", **SMALL), layer_groups=USUAL, **options)


@pytest.mark.parametrize("scan", [True, False])
def test_rules_decide_in_their_order(scan):
    params = shapes("vit_ti16", scan=scan, **SMALL)
    groups = assign_groups(
        params,
        layer_groups=USUAL,
        rules=(
            ("bias$", {"weight_decay": 0.5}),
            (r"^blocks/[01]/", {"frozen": True}),
            ("^blocks/", {"learning_rate": 0.1, "weight_decay": 2}),
        ),
    )
    assert groups["blocks/0/attn/query/bias"] == ParamGroup("rule 'bias$'", weight_decay=0.5)
    assert groups["blocks/1/attn/query/kernel"].start_step is None
    assert groups["blocks/2/attn/query/kernel"] == ParamGroup("rule '^blocks/'", 0.1, 2.0)
    assert groups["head/kernel"] == ParamGroup()
    assert groups.keys() == param_names(params).keys()


def test_rules_come_before_the_preset():
    groups = assign(preset="head", rules=(("pos_embed", {"learning_rate": 3.0}),))
    assert {n for n, g in groups.items() if g.start_step == 0} == {
        "head/kernel",
        "head/bias",
        "pos_embed",
    }


def test_both_discriminative_schemes():
    parts = (0.1, 0.3, 0.6, 1.0)
    params = shapes("resnet50")
    for head in (10.0, 1.0):
        groups = assign_groups(
            params, layer_groups=USUAL, part_multipliers=parts, head_multiplier=head
        )
        for stage, factor in enumerate(parts):
            inside = {g.learning_rate for n, g in groups.items() if f"stages/{stage}/" in n}
            assert inside == {factor}
        assert {g.learning_rate for n, g in groups.items() if n.startswith("stem")} == {0.1}
        assert {g.learning_rate for n, g in groups.items() if n.startswith("head")} == {head}


def test_parts_of_a_vit_are_runs_of_blocks():
    groups = assign(part_multipliers=(0.25, 1.0))
    rates = [groups[f"blocks/{i}/mlp/fc1/kernel"].learning_rate for i in range(4)]
    assert rates == [0.25, 0.25, 1.0, 1.0]
    assert groups["cls_token"].learning_rate == 0.25 and groups["norm/scale"].learning_rate == 1.0


def test_multipliers_multiply():
    rules = (("fc1/kernel", {"learning_rate": 0.5}),)
    groups = assign(rules=rules, layer_decay=0.5, part_multipliers=(0.1,), head_multiplier=4.0)
    assert groups["blocks/3/mlp/fc1/kernel"].learning_rate == pytest.approx(0.5 * 0.5 * 0.1)
    assert groups["head/kernel"].learning_rate == 4.0


def test_timetable():
    groups = assign(preset="head", unfreeze=((20, "half"), (10, "^blocks/3/")))
    starts = {name: group.start_step for name, group in groups.items()}
    assert starts["head/kernel"] == 0 and starts["blocks/3/norm1/scale"] == 10
    assert starts["blocks/2/norm1/scale"] == starts["norm/scale"] == 20
    assert starts["blocks/1/norm1/scale"] is starts["cls_token"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "lat"}, "did you mean 'late'"),
        ({"rules": (("blcks/0", {}),)}, "'blcks/0' .* matches no parameter; the nearest is 'bl"),
        ({"rules": (("blocks", {}), ("attn", {"frozen": True}))}, "'attn' .* decides nothing"),
        ({"rules": (("blocks",),)}, "must be .regex of a parameter path, dict"),
        ({"rules": (("(", {}),)}, "must be .regex"),
        ({"rules": (("head", {"lr": 2.0}),)}, "must be .* got .*'lr': 2.0"),
        ({"rules": (("head", {"learning_rate": -1.0}),)}, "must be .regex"),
        ({"rules": (("head", {"frozen": 1}),)}, "must be .regex"),
        ({"rules": (("", {"frozen": True}),)}, "Every parameter is frozen"),
        ({"unfreeze": ((5, "late"),)}, "'late' .* unfreezes nothing"),
        ({"preset": "head", "unfreeze": ((5, "blk"),)}, "optimizer.unfreeze matches no parameter"),
        ({"preset": "head", "unfreeze": ((5, "late"), (9, "blocks/3/"))}, "unfreezes nothing"),
        ({"part_multipliers": (0.1, "x")}, "part_multipliers must be numbers"),
    ],
)
def test_errors(options, message):
    with pytest.raises(InputError, match=message):
        assign(**options)


def test_frozen_batch_norms_keep_their_statistics():
    def build(rngs):
        return jv.create_model("resnet18", num_classes=2, rngs=rngs)

    model = build_with_frozen_stats(
        nnx.Rngs(0), build=build, frozen={"stem/norm", "stages/0/1/norm2", "head"}
    )
    before = {path: np.asarray(m.mean[...]) for path, m in norms(model)}
    model(jax.random.normal(jax.random.key(0), (2, 32, 32, 3)), train=True)
    still = {path for path, m in norms(model) if (np.asarray(m.mean[...]) == before[path]).all()}
    assert still == {"stem/norm", "stages/0/1/norm2"}


def test_the_frozen_batch_norms_of_a_model():
    """Where there is a scale, it decides; else the bias."""
    still, moving = ParamGroup(start_step=None), ParamGroup()
    groups = {
        "norm1/scale": still,
        "norm1/bias": moving,
        "norm2/scale": moving,
        "norm2/bias": still,
        "norm3/bias": still,
        "norm4/bias": moving,
        "conv/kernel": still,
    }
    assert frozen_batch_norms("frozen", groups) == {"norm1", "norm3"}
    assert frozen_batch_norms("all", groups) >= {"norm1", "norm2", "norm3", "norm4"}
    assert not frozen_batch_norms("none", groups)


def norms(model):
    return [
        ("/".join(map(str, path)), module)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, BatchNorm)
    ]


def test_every_preset_is_documented():
    for preset in PRESETS:
        assert f"`{preset}`" in assign_groups.__doc__
