import jax
import numpy as np
import pytest
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop import resnet, vit
from jaxvision.interop.rules import (
    CONV,
    LINEAR,
    Rule,
    batch_norm,
    convert,
    count_known,
    expand,
    export,
    flatten,
    linear,
)
from jaxvision.layers.block_stack import unstack_blocks
from jaxvision.models.registry import create_model, get_spec

RULES = (
    *linear("fc", "head"),
    Rule("layer{i+1}.qkv", ("blocks/{i}/query", "blocks/{i}/key"), LINEAR),
    *batch_norm("bn", "norm"),
)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


TARGET = (
    {
        "head": {"kernel": shape(3, 2), "bias": shape(2)},
        "blocks": {i: {"query": shape(3, 4), "key": shape(3, 4)} for i in range(2)},
        "norm": {"scale": shape(3), "bias": shape(3)},
    },
    {"norm": {"mean": shape(3), "var": shape(3)}},
)


def source():
    rng = np.random.default_rng(0)
    shapes = {
        "fc.weight": (2, 3),
        "fc.bias": (2,),
        "layer1.qkv": (8, 3),
        "layer2.qkv": (8, 3),
        "bn.weight": (3,),
        "bn.bias": (3,),
        "bn.running_mean": (3,),
        "bn.running_var": (3,),
    }
    weights = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    return weights | {"bn.num_batches_tracked": np.array(7)}


def test_convert_puts_everything_in_its_place():
    weights = source()
    params, stats = convert(weights, RULES, target=TARGET)
    np.testing.assert_array_equal(params["head"]["kernel"], weights["fc.weight"].T)
    np.testing.assert_array_equal(params["blocks"][1]["query"], weights["layer2.qkv"][:4].T)
    np.testing.assert_array_equal(params["blocks"][1]["key"], weights["layer2.qkv"][4:].T)
    np.testing.assert_array_equal(stats["norm"]["var"], weights["bn.running_var"])
    assert set(stats["norm"]) == {"mean", "var"} and set(params["norm"]) == {"scale", "bias"}


def test_export_is_the_way_back():
    weights = source()
    back = export(*convert(weights, RULES, target=TARGET), RULES)
    assert back.pop("bn.num_batches_tracked") == 0
    del weights["bn.num_batches_tracked"]
    assert set(back) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].flags.c_contiguous and back[name].flags.writeable


def test_layouts():
    kernel = np.random.default_rng(0).standard_normal((6, 3, 5, 4))  # OIHW
    ours = CONV.to_jax(kernel)
    assert ours.shape == (5, 4, 3, 6) and ours[1, 2, 0, 4] == kernel[4, 0, 1, 2]
    np.testing.assert_array_equal(CONV.to_torch(ours), kernel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc.bias"), r"the file lacks 'fc.bias'"),
        (
            lambda w: w.update({"fc.biass": w.pop("fc.bias")}),
            r"lacks 'fc.bias' \(nearest in the file: 'fc.biass'\); the model has no use for "
            r"'fc.biass' \(nearest wanted: 'fc.bias'\)",
        ),
        (lambda w: w.update(extra=np.ones(2)), "no use for 'extra'"),
        (lambda w: w.update({f"a{i}": np.ones(2) for i in range(9)}), "and 6 more"),
        (
            lambda w: w.update({"fc.weight": np.ones((3, 2), np.float32)}),
            r"'fc.weight' is \(3, 2\) in the file, but the model needs \(2, 3\)",
        ),
        (
            lambda w: w.update({"layer1.qkv": np.ones((12, 3), np.float32)}),
            r"is \(12, 3\) in the file, but the model needs \(8, 3\)",
        ),
        (lambda w: w.update({"fc.bias": np.ones(2, np.int64)}), "is int64 in the file"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    weights = source()
    change(weights)
    with pytest.raises(InputError, match=message):
        convert(weights, RULES, target=TARGET)


def test_excuses():
    weights = source() | {"aux.weight": np.ones(3, np.float32)}
    del weights["fc.weight"], weights["fc.bias"]
    params, _ = convert(
        weights, RULES, target=TARGET, allow_missing=("head/*",), allow_extra=("aux.*",)
    )
    assert "head" not in params
    with pytest.raises(InputError, match="lacks 'fc.weight'"):
        convert(weights, RULES, target=TARGET, allow_missing=("head/bias",), allow_extra=("aux.*",))


def test_numbers_take_the_dtype_of_the_model():
    weights = source()
    weights["fc.weight"] = weights["fc.weight"].astype(np.float16)
    params, _ = convert(weights, RULES, target=TARGET)
    assert params["head"]["kernel"].dtype == np.float32


def test_a_part_without_a_name_is_an_error():
    with pytest.raises(InputError, match="'other/scale'"):
        expand(RULES, ["head/kernel", "other/scale"])


def test_aliases_are_read_and_not_written():
    rules = (Rule("new", "weight", aliases=("old",)),)
    target = ({"weight": shape(2)}, {})
    params, _ = convert({"old": np.ones(2, np.float32)}, rules, target=target)
    assert set(export(params, {}, rules)) == {"new"}
    with pytest.raises(InputError, match="no use for 'old'"):
        both = {name: np.ones(2, np.float32) for name in ("old", "new")}
        convert(both, rules, target=target)


def test_count_known():
    assert count_known(["layer4.qkv", "fc.bias", "layer.qkv", "xfc.bias"], RULES) == 2


@pytest.mark.parametrize("name", ["vit_ti16", "resnet18", "resnet50"])
def test_every_array_has_a_name(name):
    """Also the number of scalars there: the published one."""
    sources = {"vit": vit.SOURCES, "resnet": resnet.SOURCES}[get_spec(name).family]
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    params, stats = (nnx.to_pure_dict(s) for s in nnx.state(model, nnx.Param, nnx.BatchStat))
    params, stats = jax.eval_shape(unstack_blocks, (params, stats))
    shapes = {path: leaf.shape for path, leaf in {**flatten(params), **flatten(stats)}.items()}
    for each in sources.values():
        entries = expand(each.rules(model.config), shapes)
        written = [entry for entry in entries if entry.rule.constant is None]
        size = sum(
            np.prod(entry.shape_in_file(shapes), dtype=int)
            for entry in written
            if entry.targets[0] in flatten(params)
        )
        assert size == get_spec(name).num_params
        assert len({entry.names[0] for entry in entries}) == len(entries)
