"""A family from outside the package, as `tests/extension/tiny_mixer.py` adds one."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import finished_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from launching import ROOT

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop.assign import extract_weights
from jaxvision.interop.trained import open_trained
from jaxvision.models import catalogue
from jaxvision.profiling.model_cards import model_card

EXAMPLE = pathlib.Path(__file__).parent / "extension/tiny_mixer.py"
IMAGES = jnp.ones((2, 16, 24, 3))


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Puts the example into the current directory; takes what is registered back afterwards."""
    monkeypatch.setattr(catalogue, "_SPECS", dict(catalogue._SPECS))
    monkeypatch.setattr(catalogue, "_NAMES", dict(catalogue._NAMES))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    modules = set(sys.modules)
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith(("tiny_mixer", "broken", str(tmp_path))):
            del sys.modules[name]


def make(name="tiny_mixer:spec", seed=0, **options):
    return jv.create_model(name, num_classes=5, rngs=nnx.Rngs(seed), **options)


def params(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.parametrize("address", ["tiny_mixer:spec", "./tiny_mixer.py:spec"])
def test_an_address_is_a_name(outside, address):
    assert "tiny_mixer" not in jv.list_models()
    model = make(address, width=4)
    assert model(IMAGES).shape == (2, 5) and model.features(IMAGES).shape == (2, 2, 3, 4)
    assert list(model.pyramid(IMAGES)) == [8]
    assert "tiny_mixer" in jv.list_models("tiny*")
    assert jv.get_spec(address) is jv.get_spec("tiny_mixer")
    assert jv.get_spec("tiny_mixer").family == "tiny_mixer"
    with pytest.raises(TypeError, match="tiny_mixer has no option height; its options are width"):
        make(address, height=4)
    card = model_card(address)
    assert card.parameters == 8 * 8 * 3 * 8 + 8 + 2 * 72 + 1 + 9 * 1000 and card.macs > 0


@pytest.mark.parametrize("format", ["jaxvision", "lab"])
def test_weights_go_out_and_come_back(outside, format):
    model, other = make(), make(seed=1)
    jv.save_weights(model, "weights.npz", format=format)
    assert jv.load_weights(other, "weights.npz").source == format
    jax.tree.map(np.testing.assert_array_equal, params(other), params(model))
    if format == "lab":
        assert {"embed.weight", "layer1.bias", "tau"} <= set(np.load("weights.npz"))
    trained = open_trained("weights.npz", "tiny_mixer:spec")
    np.testing.assert_array_equal(trained.model(IMAGES), model(IMAGES))
    with pytest.raises(InputError, match="TinyMixer are known from lab, jaxvision, got 'timm'"):
        jv.save_weights(model, "weights.npz")


def test_a_family_without_a_table_has_our_names(outside):
    model, other = make(), make(seed=1)
    type(model).weight_sources = None
    assert "mixers/1/kernel" in extract_weights(model, format="jaxvision")
    jv.save_weights(model, "weights.npz", format="jaxvision")
    assert jv.load_weights(other, "weights.npz").source == "jaxvision"
    jax.tree.map(np.testing.assert_array_equal, params(other), params(model))


def test_it_is_trained_with_layer_decay_and_its_own_choice_of_weight_decay(outside):
    run, state = finished_run.write(
        outside / "run",
        name="tiny_mixer:spec",
        options={},
        optimizer__layer_decay=0.5,
        optimizer__preset="late",
        optimizer__weight_decay=1.0,
        optimizer__learning_rate=1.0,
        schedule__name="constant",
        schedule__warmup_steps=0,
    )
    rates = {name.rpartition("/")[0]: g.learning_rate for name, g in run.groups.items()}
    assert rates == {"patches": 0.125, "mixers/0": 0.25, "mixers/1": 0.5, "": 0.5, "head": 1.0}
    trained = {name for name, group in run.groups.items() if group.start_step == 0}
    assert trained == {
        *("mixers/1/kernel", "mixers/1/bias", "temperature", "head/kernel", "head/bias")
    }
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    updates, _ = run.optimizer.tx.update(zeros, state.opt_state, state.params)
    moved = {name for name in ("temperature", "head") if np.any(jax.tree.leaves(updates[name])[-1])}
    assert moved == {"head"}


def test_what_decays_must_be_said(outside):
    type(make()).not_decayed = frozenset()
    with pytest.raises(InputError, match="temperature: .* `not_decayed` of the model's class"):
        finished_run.write(outside / "run", name="tiny_mixer:spec", options={})


OPEN = """
import sys
from jaxvision.interop.trained import open_trained
from jaxvision.errors import InputError
for name in (None, "tiny_mixer:spec", None):
    try:
        print(open_trained("run", name).spec.name)
    except InputError as error:
        print(error)
    print("tiny_mixer" in sys.modules)
"""


def test_a_folder_alone_runs_no_code(outside):
    finished_run.write(outside / "run", name="tiny_mixer:spec", options={})
    assert open_trained("run").spec.name == "tiny_mixer"  # it is imported here
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    refused, before, named, after, again, _ = done.stdout.splitlines()
    assert refused.startswith("run is a run of tiny_mixer:spec, whose code is not imported because")
    assert "--model=tiny_mixer:spec" in refused
    assert (before, named, after, again) == ("False", "tiny_mixer", "True", "tiny_mixer")


@pytest.mark.parametrize("field", ["encoder", "teacher"])
def test_nor_does_a_part_of_a_run(outside, field):
    finished_run.write(outside / "run")
    path = outside / "run/config.json"
    config = json.loads(path.read_text())
    (config["model"]["kwargs"] if field == "encoder" else config["distill"])[field] = "evil:spec"
    path.write_text(json.dumps(config))
    (outside / "evil.py").write_text("open('ran', 'w')")
    with pytest.raises(InputError, match=f"the {field} evil:spec, whose code is not imported"):
        open_trained("run", "vit_ti16")
    from jaxvision.evaluation.averages import recalibrate_weights

    with pytest.raises(InputError, match=f"the {field} evil:spec, whose code is not imported"):
        recalibrate_weights("run", {}, batches=1)
    assert not (outside / "ran").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "nowhere.model:spec",
            "no module 'nowhere.model': what stands outside .*mypackage.mymodel:s",
        ),
        ("nowhere.py:spec", "There is no file .*nowhere.py"),
        (":spec", "There is no module ''"),
        ("tiny_mixer:spek", "'spek' does not exist in tiny_mixer, which has spec"),
        ("tiny_mixer:", "'' does not exist in tiny_mixer, which has spec"),
        ("tiny_mixer:TinyMixer", "'TinyMixer' is a .* in tiny_mixer, which has spec"),
        ("broken:spec", "import of broken for .* failed with ZeroDivisionError: division by zero"),
        ("broken.py:spec", "import of broken.py for .* failed with ZeroDivisionError"),
        ("broken_import:spec", "broken_import .*failed with ModuleNotFoundError: .*'no_such_thi"),
    ],
)
def test_addresses_that_lead_nowhere(outside, address, message):
    (outside / "broken.py").write_text("1 / 0")
    (outside / "broken_import.py").write_text("import no_such_thing")
    with pytest.raises(InputError, match=message):
        jv.get_spec(address)
    assert "tiny_mixer" not in jv.list_models()


def test_names_that_are_taken(outside):
    spec = jv.get_spec("tiny_mixer:spec")
    assert jv.register_model(spec) is spec
    for name in ("resnet18", "vit_base_patch16_224"):  # one by name, one by alias
        with pytest.raises(InputError, match=f"The name '{name}' belongs to another model"):
            jv.register_model(dataclasses.replace(spec, name=name))
    with pytest.raises(InputError, match="'tiny_mixer' belongs to another model"):
        jv.register_model(dataclasses.replace(spec, config=spec.config.__class__(width=4)))
    peer = jv.register_model(dataclasses.replace(spec, name="mine", timm="resnet18"))
    assert jv.get_spec("resnet18").build is not peer.build and peer.peers == {"timm": "resnet18"}


def test_a_class_that_is_defined_again_takes_the_place_of_the_old(outside):
    def cell():
        class Mine(jv.get_spec("tiny_mixer:spec").build):
            pass

        config = jv.get_spec("tiny_mixer").config
        return jv.register_model(
            dataclasses.replace(jv.get_spec("tiny_mixer"), name="mine", build=Mine, config=config)
        )

    first, second = cell(), cell()
    assert first.build is not second.build and jv.get_spec("mine") is second


def test_an_encoder_from_outside(outside):
    model = jv.create_model(
        "captioner",
        vocab_size=11,
        width=16,
        depth=1,
        num_heads=2,
        hidden_width=16,
        encoder="tiny_mixer:spec",
        rngs=nnx.Rngs(0),
    )
    assert model(IMAGES, jnp.ones((2, 3), int)).shape == (2, 3, 11)
    with pytest.raises(TypeError, match="captioner has no option num_classes; .* vocab_size"):
        jv.create_model("captioner", num_classes=11, rngs=nnx.Rngs(0))
