"""The weights of a run: `load_weights` takes the folder as it takes a file."""

import functools
import json

import finished_run
import jax
import numpy as np
import pytest
from flax import nnx
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop.assign import extract_weights
from jaxvision.interop.read import read_file_or_run
from jaxvision.interop.run_folder import open_run, read_run
from jaxvision.interop.trained import open_trained
from jaxvision.layers.block_stack import unstack_blocks


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *finished_run.write(folder, steps=(3, 7))


def params(model):
    return unstack_blocks(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("scan", [True, False])
def test_the_averaged_weights_of_the_newest_checkpoint(finished, scan):
    folder, run, state = finished
    options = dict(run.options.model.kwargs, image_size=32, scan=scan)
    model = jv.create_model("vit_ti16", num_classes=8, rngs=nnx.Rngs(5), **options)
    report = jv.load_weights(model, folder)
    assert (report.source, report.wrapper) == ("jaxvision", "averaged weights of step 7")
    assert str(report).startswith(
        "loaded 40 arrays named as in jaxvision from 'averaged weights of"
    )
    assert not report.left_out and not report.adapted
    assert_same(params(model), unstack_blocks(state.ema_params))


def test_a_run_without_averages_and_one_of_its_checkpoints(tmp_path):
    options = {"stage_depths": (1, 1), "stage_widths": (8, 8)}
    _, state = finished_run.write(tmp_path, name="resnet18", options=options, ema_decay=0.0)
    model = jv.create_model("resnet18", num_classes=8, rngs=nnx.Rngs(5), **options)
    report = jv.load_weights(model, tmp_path / "checkpoints/3")
    assert report.wrapper == "weights of step 3"
    assert_same(params(model), state.params)
    assert_same(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), state.batch_stats)
    with pytest.raises(InputError, match="no averaged weights: leave ema=True out"):
        jv.load_weights(model, tmp_path, ema=True)


def test_the_size_that_a_run_was_trained_at(finished):
    folder, run, _ = finished
    size = run.options.data.image_size
    assert read_file_or_run(folder).image_size == size
    path = folder / "config.json"
    before = path.read_text()
    config = json.loads(before)
    config["model"]["kwargs"]["image_size"] = [48, 32]
    path.write_text(json.dumps(config))
    try:
        assert read_file_or_run(folder).image_size == (48, 32)
    finally:
        path.write_text(before)


def test_another_head_and_grid_are_adapted(finished):
    folder, run, _ = finished
    options = dict(run.options.model.kwargs, image_size=48)
    model = jv.create_model("vit_ti16", num_classes=3, rngs=nnx.Rngs(5), **options)
    report = jv.load_weights(model, folder)
    assert "8 classes in the file, 3 in the model" in report.adapted["head"]
    assert "resized from 4 x 4 to 6 x 6" in report.adapted["pos_embed"]
    assert set(report.left_out) == {"head/kernel", "head/bias"}


def test_our_own_names_in_a_file(tmp_path):
    model, other = helpers.vit(), helpers.vit(seed=1)
    jv.save_weights(model, tmp_path / "own.safetensors", format="jaxvision")
    assert "blocks/1/attn/query/kernel" in extract_weights(model, format="jaxvision")
    jv.load_weights(other, tmp_path / "own.safetensors", source="jaxvision")
    assert helpers.same(helpers.leaves(model), helpers.leaves(other))


def test_the_run_knows_its_classes(finished):
    folder, run, _ = finished
    opened = open_run(folder)
    assert opened.class_names == run.task.class_names and len(opened.class_names) == 8
    assert opened.config["model"]["name"] == "vit_ti16" and opened.steps == (7, 3)
    assert open_run(folder / "checkpoints/3").steps == (3,)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    finished_run.write(tmp_path, steps=(3, 7))
    for path in (tmp_path / "checkpoints/7/state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    assert read_run(tmp_path)[1] == "averaged weights of step 3"
    for path in (tmp_path / "checkpoints/3/state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="No readable checkpoint in .*7: .*, 3: .*train first"):
        read_run(tmp_path)


def test_what_is_no_run(tmp_path, finished):
    with pytest.raises(InputError, match="neither a file of weights nor the folder of a run"):
        jv.load_weights(helpers.vit(), tmp_path)
    with pytest.raises(InputError, match=r"is \(16,\) in the file, but the model needs \(24,\)"):
        jv.load_weights(helpers.vit(width=24, num_heads=3), finished[0])
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json is damaged"):
        open_run(tmp_path)


def changed(**changes):
    """Returns what config.json holds after changes, from that of a run."""

    def text(good):
        config = json.loads(good)
        for name, value in changes.items():
            *groups, option = name.split("__")
            functools.reduce(dict.__getitem__, groups, config)[option] = value
        return json.dumps(config)

    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (lambda good: "[" * 100_000, "nested too deeply"),
        (lambda good: '{"model":' * 100_000, "nested too deeply"),
        (lambda good: "[1]", "holds a list instead of an object"),
        (lambda good: "{}", "names no model"),
        (lambda good: '{"seed": 1}', "names no model"),
        (lambda good: good.replace('"seed": 0', '"seed": NaN'), "holds NaN"),
        (changed(model=5), "config.model must be a group of options, got 5"),
        (changed(model__name=None), "config.model.name must be a text, got None"),
        (changed(model__kwargs=[1]), "model.kwargs must be a group of options, got"),
        (changed(model__kwargs__depth=10**9), "depth must be a whole number of at most 600"),
        (changed(model__kwargs__depth="2"), "depth must be a whole|Type-check"),  # of beartype here
        (changed(model__kwargs__num_heads=0), "config.json of the run: integer modulo by zero"),
        (changed(model__kwargs__drop_path_rate="a"), "config.json of the run: ('<='|Type-ch)"),
        (changed(data__image_size=10**6), "data.image_size is 1000000, pixels up to 16384"),
        (changed(data__image_size=[1, 2, 3]), "pixels up to 16384 wanted"),
        (changed(data__mean=[0.5], data__std=[0.5]), "three numbers in 0..1"),
        (changed(data__mean=["a", "b", "c"], data__std=[1, 1, 1]), "three numbers in 0..1"),
        (changed(data__mean=[1, 1, 1], data__std=[0, 0, 0]), "no deviation is 0"),
        (changed(data__mean=[], data__std=[0.5, 0.5, 0.5]), "go together"),
        (changed(data__eval_resize=10**9), "at most 16384, but is 1000000000"),
        (changed(model__kwargs__image_size=10**6), "image_size is 1000000, pixels up to 16384"),
        (changed(model__kwargs__image_size=16384, model__kwargs__patch_size=1), "give a smaller"),
    ],
)
def test_a_hostile_config_ends_in_one_sentence(finished, text, expected):
    path = finished[0] / "config.json"
    good = path.read_text()
    try:
        path.write_text(text(good))
        with pytest.raises(InputError, match=expected) as error:
            open_trained(str(finished[0]))
    finally:
        path.write_text(good)
    assert len(str(error.value)) < 600


def test_options_that_an_older_version_did_not_write_have_their_defaults(finished):
    path = finished[0] / "config.json"
    good = path.read_text()
    try:
        old = {name: json.loads(good)[name] for name in ("model", "data", "task")}
        path.write_text(json.dumps(old))
        assert open_run(finished[0]).config["caption"]["max_length"] > 0
        assert open_trained(str(finished[0])).class_names
    finally:
        path.write_text(good)
