"""Folders of adapters: what is refused, and the command that writes and reads them."""

import json

import finished_run
import jax
import numpy as np
import pytest
from flax import nnx
from interop import helpers

import jaxvision as jv
from jaxvision import __main__ as command
from jaxvision.errors import InputError
from jaxvision.interop.adapter_file import load_adapter, save_adapter, with_adapter
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.interop.formats import read_weights, write_weights
from jaxvision.interop.trained import open_trained
from jaxvision.layers.adapter import ADAPTER, without_adapters

LAYER = "base_model.model.blocks.1.mlp.fc1"
GOOD = {"peft_type": "LORA", "lora_alpha": 4, "r": 2}


def factors(rows=64, columns=16, rank=2, layer=LAYER):
    rng = np.random.default_rng(0)
    return {
        f"{layer}.lora_A.weight": rng.normal(size=(rank, columns)).astype(np.float32),
        f"{layer}.lora_B.weight": rng.normal(size=(rows, rank)).astype(np.float32),
    }


def write(folder, config=GOOD, weights=None):
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "adapter_config.json").write_text(text)
    weights = factors() if weights is None else weights
    write_weights(folder / "adapter_model.safetensors", weights)
    return folder


def test_adds_alpha_over_rank_times_the_product(tmp_path):
    model = helpers.vit()
    before = extract_weights(model)
    report = load_adapter(model, write(tmp_path / "a"))
    assert report.loaded == ("blocks.1.mlp.fc1.weight",)
    a, b = factors().values()
    wanted = before | {"blocks.1.mlp.fc1.weight": before["blocks.1.mlp.fc1.weight"] + 4 / 2 * b @ a}
    after = extract_weights(model)
    for name, array in wanted.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-6, atol=1e-6)


def test_ia3_scales_inputs_where_a_name_ends_as_peft_wants_it(tmp_path):
    model = helpers.vit()
    name, scales = "blocks.1.mlp.fc1.weight", np.linspace(0.5, 2, 16, dtype=np.float32)
    before = extract_weights(model)[name]
    config = {"peft_type": "IA3", "feedforward_modules": ["c1"]}  # no part of a name
    load_adapter(model, write(tmp_path / "a", config, {f"{LAYER}.ia3_l": scales[None]}))
    np.testing.assert_allclose(extract_weights(model)[name], before * scales, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ("{", None, "adapter_config.json is damaged"),
        ("[]", None, "adapter_config.json is damaged"),
        (GOOD | {"peft_type": "PREFIX_TUNING"}, None, "kind PREFIX_TUNING; LORA and IA3 are read"),
        (GOOD | {"use_dora": True}, None, "was trained with use_dora, which is not read"),
        (GOOD | {"fan_in_fan_out": True}, None, "with fan_in_fan_out"),
        (GOOD | {"use_qalora": True}, None, "with use_qalora"),
        (GOOD | {"init_lora_weights": "pissa_niter_4"}, None, "=pissa_niter_4, which changes"),
        (GOOD | {"init_lora_weights": ["olora"]}, None, "init_lora_weights=.*olora"),
        (GOOD | {"lora_alpha": "4"}, None, "lora_alpha should be numbers"),
        ({"peft_type": "LORA"}, None, "lora_alpha should be numbers"),
        (GOOD | {"alpha_pattern": {"fc1": None}}, None, "lora_alpha should be numbers"),
        (GOOD | {"lora_alpha": 10**400}, None, "lora_alpha should be numbers"),
        (GOOD | {"alpha_pattern": [3]}, None, "alpha_pattern should be an object"),
        (GOOD | {"alpha_pattern": {"fc.": 3}}, None, "'fc.' of alpha_pattern is the name of no"),
        (GOOD, factors(rank=0), "beside a weight of shape"),
        (GOOD, factors(layer="base_model.model.vit.layer.9"), "has not, e.g. 'vit.layer.9'"),
        (GOOD, {"base_model.model.head.bias": np.zeros(5, np.float32)}, "e.g. 'none'"),
        (GOOD, factors(columns=17), r"'blocks.1.mlp.fc1' has lora_A \(2, 17\)"),
        (GOOD, factors(rows=1), r"beside a weight of shape \(64, 16\)"),
        (GOOD, {f"{LAYER}.lora_A.weight": np.zeros((2, 16), np.float32)}, "has lora_A"),
        (GOOD, factors() | {"base_model.model.x": np.zeros(3, np.float32)}, "'x'"),
        (
            GOOD,
            {name: x * np.nan for name, x in factors().items()},
            "blocks.1.mlp.fc1.weight has 1024 values that are NaN",
        ),
        ({"peft_type": "IA3"}, {f"{LAYER}.ia3_l": np.ones((3, 1), np.float32)}, "has ia3_l"),
        ({"peft_type": "IA3"}, None, "has lora_A"),
        ({"peft_type": "IA3", "feedforward_modules": "fc"}, None, "feedforward_modules a list"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(tmp_path, config, weights, message):
    model = helpers.vit()
    before = helpers.leaves(model)
    with pytest.raises(InputError, match=message):
        load_adapter(model, write(tmp_path / "a", config, weights))
    assert helpers.same(before, helpers.leaves(model))


def test_no_folder_of_an_adapter(tmp_path):
    with pytest.raises(InputError, match="no folder of an adapter.*--format=peft"):
        load_adapter(helpers.vit(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "preset=full, which has no adapters"),
        ({"optimizer__preset": "bitfit"}, "preset=bitfit, which has no adapters"),
        (
            {"optimizer__preset": "lora", "optimizer__rules": (("norm", {"frozen": False}),)},
            "more than adapters and head",
        ),
    ],
)
def test_what_cannot_be_written_alone(tmp_path, changes, message):
    finished_run.write(tmp_path / "run", **changes)
    with pytest.raises(InputError, match=message):
        save_adapter(tmp_path / "run", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_what_stands_on_another_adapter_cannot_be_written_alone(tmp_path):
    finished_run.write(tmp_path / "run", optimizer__preset="lora")
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text())
    config["model"] |= {"init_from": "a", "adapter_from": "b"}
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="went on from the adapter b"):
        save_adapter(tmp_path / "run", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def noisy(params):
    rng = np.random.default_rng(1)

    def one(path, leaf):
        changed = ADAPTER in jax.tree_util.keystr(path) or "head" in jax.tree_util.keystr(path)
        return leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32) if changed else leaf

    return jax.tree_util.tree_map_with_path(one, params)


def test_the_command_writes_an_adapter_and_merges_it_into_the_weights_of_before(tmp_path, capsys):
    run, before, adapter = (str(tmp_path / name) for name in ("run", "before", "adapter"))
    finished_run.write(run, ema_decay=0.0, optimizer__preset="lora", adapter__rank=2, trained=noisy)
    assert command.main(["convert", run, adapter, "--format=peft"]) == 0
    assert "wrote the adapters and the head" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    finished_run.write(before, ema_decay=0.0)
    out = str(tmp_path / "out.safetensors")
    assert command.main(["convert", before, out, "--format=timm", f"--adapter={adapter}"]) == 0
    assert f"changed by {adapter}" in capsys.readouterr().out
    wanted = extract_weights(open_trained(run).model)
    found = read_weights(out)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)

    # Weights of other classes get the head of the adapter, too.
    trained = open_trained(before)
    other = helpers.vit(num_classes=1000, image_size=32)
    weights = extract_weights(other)
    weights |= {n: x for n, x in extract_weights(trained.model).items() if "head" not in n}
    assign_weights(other, weights)
    model = with_adapter(other, trained.spec, adapter)
    for name, array in extract_weights(model).items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-6, atol=1e-6)


def test_a_run_starts_from_weights_and_an_adapter(tmp_path):
    """Which becomes part of the weights: beside them stand new adapters."""
    run, adapter = tmp_path / "run", tmp_path / "adapter"
    options = {"ema_decay": 0.0, "optimizer__preset": "lora"}
    _, state = finished_run.write(run, trained=noisy, **options)
    save_adapter(run, adapter)
    base = tmp_path / "base.safetensors"
    plain = open_trained(str(run)).model
    nnx.update(plain, without_adapters(state.params))
    jv.save_weights(plain, base)
    again, _ = finished_run.write(
        tmp_path / "again", model__init_from=str(base), model__adapter_from=str(adapter), **options
    )
    params, _ = again.initial_weights()
    model = nnx.merge(again.graphdef, params, {})
    wanted = extract_weights(open_trained(str(run)).model)
    for name, array in extract_weights(model).items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-6, atol=1e-6)
    assert not np.any(params["blocks"]["mlp"]["fc1"][ADAPTER]["lora_b"])
    wrong, _ = finished_run.write(
        tmp_path / "wrong", model__init_from=str(base), model__adapter_from=str(run), **options
    )
    with pytest.raises(InputError, match="config.model.adapter_from: .*no folder of an adapter"):
        wrong.initial_weights()
