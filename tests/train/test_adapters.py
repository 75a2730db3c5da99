"""LoRA, IA3 and the presets beside them: which layers, what stays, what a run leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from opening import evaluate_run, make_run, train
from train import helpers
from train.test_loop import Killed, config, losses

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.evaluation.averages import recalibrate_weights
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.interop.run_folder import read_run
from jaxvision.interop.trained import open_trained
from jaxvision.layers.adapter import ADAPTER, Lora, draw_adapter_keys, without_adapters
from jaxvision.models.mobilenet import BlockRow
from jaxvision.options.adapter import AdapterOptions
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.options.options import Options
from jaxvision.preflight.group_table import trained_share
from jaxvision.train.adapters import with_adapters
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.optim.layer_depth import layer_groups_of
from jaxvision.train.optim.optimizer import decay_mask
from jaxvision.train.optim.param_groups import assign_groups, param_names
from jaxvision.train.state import abstract_model

VIT = {"width": 16, "depth": 3, "num_heads": 2, "patch_size": 8, "image_size": 16}
ROW = BlockRow(channels=8, expansion=2, stride=2, squeeze=True)
STAGES = {"stage_depths": (1, 1, 1, 1), "stage_widths": (8, 8, 16, 16)}
# A model of each way to have linear layers and 1x1 convolutions.
MODELS = {
    "vit_ti16": VIT,
    "swin_v2_t": {
        "width": 8, "stage_depths": (2,), "stage_heads": (2,), "window_size": 2, "image_size": 16,
    },
    "convnext_tiny": STAGES,
    "efficientnet_b0": {"stem_width": 8, "width": 1.0, "rows": (ROW,), "last_width": 16},
    "resnet50": {"stage_widths": (8, 16), "stage_depths": (1, 1), "stem_width": 8},
}  # fmt: skip


def builder(name, **options):
    fields = {"num_classes": 3} | MODELS[name] | options
    return lambda rngs: jv.create_model(name, rngs=rngs, **fields)


def adapted(build, preset="lora", **adapter):
    options = Options(adapter=AdapterOptions(**adapter), optimizer=OptimizerOptions(preset=preset))
    return with_adapters(build, abstract_model(build)[1], options)


def noisy(model):
    """Returns the model with other values: those of new norms and adapters may do nothing."""
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype),
        nnx.to_pure_dict(params),
    )
    return nnx.merge(graphdef, params, stats, copy=True)


def names_of(build):
    return param_names(abstract_model(build)[1])


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        *((name, "lora") for name in ("vit_ti16", "swin_v2_t", "resnet50")),
        ("vit_ti16", "ia3"),
        pytest.param("resnet50", "ia3", marks=pytest.mark.repeats),
        pytest.param("convnext_tiny", "lora", marks=pytest.mark.repeats),
        pytest.param("efficientnet_b0", "lora", marks=pytest.mark.repeats),
    ],
)
def test_a_model_with_adapters_computes_what_its_merged_weights_do(name, preset):
    targets = "kernel" if name == "resnet50" else ""
    build = adapted(builder(name), preset, targets=targets, rank=2, alpha=3.0)
    model, plain = noisy(build(nnx.Rngs(0))), builder(name)(nnx.Rngs(1))
    size = 32 if name == "convnext_tiny" else 16
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    call = nnx.jit(lambda model, images: model(images))
    assign_weights(plain, extract_weights(model, format="jaxvision"))
    ours, merged = (np.asarray(call(each, images)) for each in (model, plain))
    np.testing.assert_allclose(ours, merged, rtol=1e-3, atol=1e-4)
    nnx.update(plain, without_adapters(nnx.to_pure_dict(nnx.state(model, nnx.Param))))
    assert np.abs(ours - np.asarray(call(plain, images))).max() > 0.01
    # A new adapter changes nothing, and the trunk has the values that it has without.
    new, plain = build(nnx.Rngs(0)), builder(name)(nnx.Rngs(0))
    np.testing.assert_allclose(call(new, images), call(plain, images), rtol=1e-5, atol=1e-6)
    params = without_adapters(nnx.to_pure_dict(nnx.state(new, nnx.Param)))
    helpers.assert_equal(params, nnx.to_pure_dict(nnx.state(plain, nnx.Param)))


def test_targets_are_all_kernels_of_products_outside_the_head_or_those_that_match():
    for name in MODELS:
        names = names_of(adapted(builder(name)))
        beside = {n.replace(f"/{ADAPTER}/lora_a", "/kernel") for n in names if "lora_a" in n}
        assert beside and not any(n.startswith("head") for n in beside)
        kernels = {n for n, x in names.items() if n.endswith("kernel") and n not in beside}
        for kernel in kernels:  # depthwise, larger, patches
            assert kernel.startswith("head") or len(names[kernel].shape) == 4
    names = names_of(adapted(builder("vit_ti16"), targets=r"attn/(query|value)/", rank=4))
    found = {n: x.shape for n, x in names.items() if ADAPTER in n}
    assert found.keys() == {
        f"blocks/{i}/attn/{part}/{ADAPTER}/{factor}"
        for i in range(3) for part in ("query", "value") for factor in ("lora_a", "lora_b")
    }  # fmt: skip
    assert {shape for shape in found.values()} == {(16, 4), (4, 16)}
    names = names_of(adapted(builder("vit_ti16"), "ia3"))
    assert {n.split("/", 2)[2] for n in names if ADAPTER in n} == {
        f"attn/key/{ADAPTER}/ia3_outputs", f"attn/value/{ADAPTER}/ia3_outputs",
        f"mlp/fc2/{ADAPTER}/ia3_inputs",
    }  # fmt: skip


def test_blocks_of_a_stack_are_all_adapted_or_none():
    with pytest.raises(InputError, match=r"matches some of the 3 blocks.*kwargs\.scan=False"):
        adapted(builder("vit_ti16"), targets="blocks/2/")
    names = names_of(adapted(builder("vit_ti16", scan=False), targets="blocks/2/"))
    assert all(n.startswith("blocks/2/") for n in names if ADAPTER in n)


@pytest.mark.parametrize(
    ("preset", "trained"),
    [("lora", f"/{ADAPTER}/"), ("ia3", f"/{ADAPTER}/"), ("bitfit", "/bias")],
)
@pytest.mark.parametrize("name", ["vit_ti16", "resnet50"])
def test_presets_train_the_head_and_what_they_are_called_for(name, preset, trained):
    build = builder(name)
    if preset != "bitfit":
        build = adapted(build, preset, targets="(conv1|fc1)/kernel")
    _, params, _ = abstract_model(build)
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    groups = assign_groups(params, layer_groups=layer_groups_of(model), preset=preset)
    moving = {name for name, group in groups.items() if group.start_step == 0}
    assert moving == {n for n in groups if n.startswith("head/") or trained in n}
    decayed = decay_mask(param_names(params))
    for path in moving:
        assert decayed[path] == path.endswith(("kernel", "lora_a", "lora_b"))


def test_dropout_of_a_lora_differs_by_layer_and_block_and_is_off_without_keys():
    build = adapted(builder("vit_ti16"), targets="attn/(query|value)/", dropout=0.5)
    model = noisy(build(nnx.Rngs(0)))
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    still = np.asarray(model(images))

    def called(key):
        graphdef, state = nnx.split(model)
        copy = nnx.merge(graphdef, state, copy=True)
        draw_adapter_keys(copy, jax.random.key(key))
        keys = [m.keys for _, m in nnx.iter_modules(copy) if isinstance(m, Lora)]
        return np.asarray(copy(images, train=True)), keys

    once, keys = called(0)
    drawn = np.concatenate([jax.random.key_data(each) for each in keys])
    assert len(keys) == 2 and len(np.unique(drawn, axis=0)) == 2 * 3  # of 3 blocks
    np.testing.assert_array_equal(once, called(0)[0])
    assert np.abs(once - called(1)[0]).max() > 1e-3 and np.abs(once - still).max() > 1e-3
    np.testing.assert_array_equal(model(images, train=True), still)


def test_dropout_is_of_what_a_sees():
    rngs = nnx.Rngs(0)
    lora = Lora((6, 4), rank=3, scale=2.0, dropout_rate=0.25, param_dtype=jnp.float32, rngs=rngs)
    lora.lora_b[...] = jax.random.normal(jax.random.key(1), (3, 4))
    inputs, kernel = jnp.ones((5, 6)), jnp.ones((6, 4))
    key = jax.random.key(2)
    lora.keys = nnx.data(key)
    kept = np.asarray(jax.random.bernoulli(key, 0.75, (5, 6))) / 0.75
    wanted = inputs @ kernel + 2.0 * kept @ lora.lora_a[...] @ lora.lora_b[...]
    np.testing.assert_allclose(lora(inputs, lambda x: x @ kernel), wanted, rtol=1e-5)


# --- runs ---------------------------------------------------------------------------------------


def lora_config(base, **options):
    defaults = {
        "total_steps": 4,
        "checkpoint.every_steps": 2,
        "eval.every_steps": 100,
        "log.every_steps": 1,
        "accumulate_steps": 2,
        "optimizer.preset": "lora",
        "adapter.rank": 2,
        "adapter.dropout": 0.1,
        "model.init_from": base,
        "data.shapes.num_eval": 48,
    }
    return config(**defaults | options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of LoRA: its folder, its state, and the weights that it started from."""
    folder = tmp_path_factory.mktemp("lora")
    start = make_run(config()).build(nnx.Rngs(5))
    base = str(folder / "base.safetensors")
    jv.save_weights(start, base)
    state = train(lora_config(base), folder / "run")
    return folder / "run", state, start, base


def test_the_trunk_keeps_every_bit_and_adapters_and_head_move(whole):
    _, state, start, _ = whole
    before = nnx.to_pure_dict(nnx.state(start, nnx.Param))
    for params in (state.params, state.ema_params):
        after = without_adapters(params)
        helpers.assert_equal({**after, "head": None}, {**before, "head": None})
        assert np.abs(after["head"]["kernel"] - before["head"]["kernel"]).max() > 1e-3
    adapters = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if "lora_b" in jax.tree_util.keystr(path)
    ]
    assert len(adapters) == 6 and all(np.abs(leaf).min() > 0 for leaf in adapters)


def test_killed_and_resumed_ends_bit_for_bit_where_it_would_have(whole, tmp_path, monkeypatch):
    folder, state, _, base = whole
    save = Checkpointer.save

    def save_then_die(self, step, *args):
        save(self, step, *args)
        self.wait()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_then_die)
        with pytest.raises(Killed):
            train(lora_config(base), tmp_path)
    helpers.assert_equal(train(lora_config(base), tmp_path), state)
    assert losses(tmp_path) == losses(folder)


def test_whoever_reads_the_run_finds_a_plain_model(whole):
    folder, state, _, base = whole
    trained = open_trained(str(folder))
    assert not any(ADAPTER in path for path, _ in nnx.iter_modules(trained.model))
    run = make_run(lora_config(base))
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    adapted_model = nnx.merge(run.graphdef, state.ema_params, state.ema_batch_stats)
    wanted = np.asarray(adapted_model(images))
    np.testing.assert_allclose(trained.model(images), wanted, rtol=1e-4, atol=1e-5)
    exported = extract_weights(adapted_model, format="timm")
    for name, array in extract_weights(trained.model, format="timm").items():
        np.testing.assert_array_equal(array, exported[name])


@pytest.mark.repeats
def test_the_run_is_evaluated_and_its_averages_measured(whole):
    folder, _, _, base = whole
    assert 0 <= evaluate_run(lora_config(base), folder)["eval/accuracy"] <= 1
    weights, _ = read_run(folder)
    assert recalibrate_weights(folder, weights, batches=1).keys() == weights.keys()


def test_preflight_says_how_much_is_trained(whole):
    run = make_run(lora_config(whole[3]))
    total = sum(x.size for x in jax.tree.leaves(run.abstract_state.params))
    own = 2 * 2 * ((32 + 32) * 4 + (32 + 128) * 2)  # rank, depth, attention, MLP
    head = 32 * 8 + 8
    text = trained_share(run)
    assert f"trained: {own + head:,} of {total:,} parameters (" in text
    assert f"frozen: {total - own - head:,}" in text
    # Two moments each, of the adapters alone.
    state = sum(x.nbytes if hasattr(x, "nbytes") else 4 * x.size
                for x in jax.tree.leaves(run.abstract_state.opt_state) if x.ndim)  # fmt: skip
    assert state == 2 * 4 * (own + head)


def test_lp_ft_probes_and_then_trains_all():
    run = make_run(config(**{"optimizer.preset": "lp_ft", "total_steps": 9}))
    starts = {name.startswith("head/"): group.start_step for name, group in run.groups.items()}
    assert starts == {True: 0, False: 4}
    run = make_run(
        config(**{"optimizer.preset": "lp_ft", "optimizer.unfreeze": ((0.12, "blocks/1/"),)})
    )
    starts = {name: group.start_step for name, group in run.groups.items()}
    assert starts["blocks/1/norm1/scale"] == 3 and starts["cls_token"] == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter.targets": "atn/"}, "'atn/' of --config.adapter.targets matches no parameter"),
        ({"adapter.targets": "head/"}, "'head/' of --config.adapter.targets matches no"),
        ({"adapter.targets": "("}, "--config.adapter.targets must be a regex"),
        (
            {"optimizer.preset": "full"},
            "--config.adapter is for --config.optimizer.preset=lora or ia3, got 'full'",
        ),
        ({"adapter.rank": 0}, "--config.adapter.rank must be in 1.."),
        ({"adapter.dropout": 1.0}, "--config.adapter.dropout must be in"),
        ({"adapter.alpha": -1.0}, "--config.adapter.alpha must be in"),
        ({"model.adapter_from": "x", "model.init_from": ""}, "give these as --config.model.init_"),
        (
            {"model.name": "airbench94", "model.kwargs": {}},
            "preset=lora needs linear layers or 1x1 convolutions before the head",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_run(lora_config("", **options))


@pytest.mark.parametrize("task", ["masked_autoencoding"])
def test_a_task_without_labels_has_no_weights_to_go_on_from(task):
    options = Options(task=task, optimizer=OptimizerOptions(preset="lora"))
    with pytest.raises(InputError, match=f"task={task} trains such: choose another preset"):
        with_adapters(builder("vit_ti16"), {}, options)


def test_adapters_beside_a_random_trunk_are_refused():
    with pytest.raises(InputError, match="preset=lora keeps the trunk as it is, and without"):
        make_run(lora_config("")).initial_weights()
