"""The weights of a run: `load_weights` takes the folder as it takes a file."""

import finished_run
import jax
import numpy as np
import pytest
from flax import nnx
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop.load import extract_weights
from jaxvision.interop.run_folder import open_run, read_run
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
