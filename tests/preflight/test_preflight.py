"""What preflight tells is held against independent counts, and against the real step."""

import contextlib
import dataclasses
import json
import logging
import math
import re

import jax
import jax.numpy as jnp
import launching
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental.compilation_cache import compilation_cache
from opening import make_run, preflight

from configs import smoke
from jaxvision import target_platform
from jaxvision.errors import InputError
from jaxvision.options.options import read_options
from jaxvision.plots.previews import class_shares, plot_schedule
from jaxvision.preflight import preflight as flight
from jaxvision.preflight.preflight import (
    _verdict,
    evaluation_samples,
    first_samples,
    without_compilation_cache,
)
from jaxvision.profiling import cost, gpu_estimate, gpu_target
from jaxvision.profiling.memory import StepMemory, largest_batch, memory_table
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.task import spread
from jaxvision.train.state import count_params, create_state
from jaxvision.train.workdir import open_workdir

STATE = ("parameters", "optimizer state", "averaged weights", "BatchNorm statistics")
BATCHES, TEMPORARY = "batches, with those sent ahead", "activations and gradients"
WIDE = dict(width=256, depth=1, num_heads=4, patch_size=16)
QUICK = dict(  # to compile, and its memory is in the activations
    kwargs=dict(width=32, depth=1, num_heads=2, patch_size=4),
    optimizer__name="sgd",
    optimizer__clip_norm=0.0,
    ema_decay=0.0,
    augment__mixup_alpha=0.0,
)
RESNET = dict(stage_widths=(64, 64), stage_depths=(1, 1), stem="cifar")

PICTURES = {"samples.png", "eval_samples.png", "schedule.png"}


def config(name="vit_ti16", kwargs=WIDE, **options):
    result = smoke.get_config()
    with result.unlocked():
        result.model.name, result.model.kwargs = name, kwargs
        for option, value in options.items():
            *groups, leaf = option.split("__")
            group = result
            for part in groups:
                group = group[part]
            group[leaf] = value
    return result


def total(parts):
    return sum(parts.values())


@pytest.mark.parametrize(
    ("name", "kwargs", "fsdp", "ema_decay"),
    [("vit_ti16", WIDE, 1, 0.9), ("vit_ti16", WIDE, 8, 0.0), ("resnet18", RESNET, 1, 0.9)],
)
def test_parts_are_those_of_one_device(name, kwargs, fsdp, ema_decay):
    run = make_run(config(name, kwargs, mesh__fsdp=fsdp, ema_decay=ema_decay), devices=8)
    memory = StepMemory(run)
    parts = memory.train(16)
    model = nnx.eval_shape(lambda: run.build(nnx.Rngs(0)))
    params, stats, _ = nnx.split_state(nnx.state(model), nnx.Param, nnx.BatchStat, ...)
    params_bytes, stats_bytes = 4 * count_params(params), 4 * count_params(stats)
    if fsdp == 1:
        expected = (params_bytes, 2 * params_bytes, params_bytes + stats_bytes, stats_bytes)
        for part, size in zip(STATE, expected, strict=True):
            assert parts[part] == pytest.approx(size, abs=16), part  # two counters of the optimizer
    else:
        assert params_bytes / 8 <= parts["parameters"] < 1.1 * params_bytes / 8
        assert parts["optimizer state"] == pytest.approx(2 * parts["parameters"], abs=16)
        assert parts["averaged weights"] == 0
    assert bool(stats_bytes) == (name == "resnet18") == bool(parts["BatchNorm statistics"])

    images = 16 * (32 * 32 * 3 + 4 + 1) // 8  # uint8 pixels, int32 label, bool mask
    assert parts[BATCHES] == 3 * images - 16 // 8  # the step does not read the mask
    # The compiled step itself: whatever is donated is state, and nothing of it is left out.
    sizes = memory.program.memory_analysis()
    counters = 3 * 4 + 8  # step, skipped_steps, skipped_in_a_row, key
    assert sizes.alias_size_in_bytes == sum(parts[part] for part in STATE) + counters
    assert total(parts) == (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + 2 * images
    )

    evaluation = memory.eval(8)
    assert all(evaluation[part] == parts[part] for part in STATE)
    assert evaluation[BATCHES] == 2 * images + 2 * images // 2  # 8 images are half of 16
    assert 0 < evaluation[TEMPORARY] < parts[TEMPORARY]


def test_activations_grow_with_the_batch():
    memory = StepMemory(make_run(config(**QUICK)))
    small, middle, large = (memory.train(size)[TEMPORARY] for size in (64, 128, 192))
    assert large - middle == pytest.approx(middle - small, rel=0.1)
    assert small > 4 * count_params(
        memory.run.abstract_state.params
    )  # the gradients are among them


def test_nothing_is_allocated():
    run = make_run(
        config("vit_h14", dict(scan=True), data__image_size=28, batch_size=8, optimizer__name="sgd")
    )
    before = sum(x.nbytes for x in jax.live_arrays())
    parts = StepMemory(run).train(8)
    assert parts["parameters"] > 2.4e9
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 1e6


def affine(size):
    return 1000 + 7 * size


def with_steps(size):
    return 1000 + 7 * size + 200 * (size // 64) - (size % 64)


@pytest.mark.parametrize("limit", [1008, 1100, 1456, 5000, 10**6])
@pytest.mark.parametrize("first", [16, 512])
@pytest.mark.parametrize("unit", [1, 8])
def test_largest_batch_of_affine_memory_is_exact(limit, first, unit):
    calls = []

    def memory_at(size):
        calls.append(size)
        assert size % unit == 0 and size >= unit
        return affine(size)

    known = {0: 900, first: affine(first)}
    largest, needed = largest_batch(memory_at, known, limit=limit, unit=unit, greatest=8000)
    assert largest == min((limit - 1000) // 7 // unit * unit, 8000)
    assert needed == (affine(largest) if largest else 900)
    assert len(calls) <= 3


@pytest.mark.parametrize("limit", range(1100, 20_000, 777))
def test_largest_batch_always_fits(limit):
    largest, needed = largest_batch(
        with_steps, {0: 900, 16: with_steps(16)}, limit=limit, unit=4, greatest=4000
    )
    best = max(size for size in range(0, 4001, 4) if with_steps(size) <= limit)
    assert needed == with_steps(largest) <= limit
    assert largest >= 0.9 * best - 8


def test_largest_batch_where_the_compiler_gives_up():
    def memory_at(size):
        return affine(size) if size <= 40 else math.inf

    largest, _ = largest_batch(
        memory_at, {0: 900, 64: math.inf}, limit=10_000, unit=8, greatest=800
    )
    assert largest in (32, 40)


def test_samples_are_what_the_step_sees():
    @dataclasses.dataclass(frozen=True)
    class Spy(Classification):
        """Reports the images and labels of the step as its metrics."""

        def loss(self, model, batch, *, rngs):
            leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
            images, labels = batch["image"], batch["label"]
            metrics = {f"left{i}": jnp.mean(images[i, :, :16]) for i in range(5)}
            metrics |= {f"right{i}": jnp.mean(images[i, :, 16:]) for i in range(5)}
            metrics |= {f"label{i}": jnp.dot(labels[i], jnp.arange(8.0)) for i in range(5)}
            return sum(jnp.sum(x) for x in leaves), metrics

    run = make_run(
        config(
            kwargs=dict(width=16, depth=1, num_heads=1, patch_size=16),
            augment__mixup_alpha=1.0,
            augment__cutmix_alpha=1.0,
            augment__mix_probability=0.8,
            seed=3,
        )
    )
    images, labels = first_samples(run)
    assert images.shape == (5, 5, 32, 32, 3) and images.dtype == np.uint8
    assert np.any((labels > 0.05) & (labels < 0.95)) and np.any(labels == 1)
    normalised = np.asarray(run.preprocess_fn(jnp.asarray(images).reshape(25, 32, 32, 3))).reshape(
        images.shape
    )

    spied = dataclasses.replace(run, task=Spy(data=run.task.data))
    abstract = spied.abstract_state
    state = create_state(spied.build, spied.optimizer.tx, seed=3, abstract=abstract)
    step = spied.train_step()
    for t, batch in zip(range(5), run.train_batches(), strict=False):
        state, metrics = step(state, run.put(batch))
        for i in range(5):
            # Pixels are rounded to 1/255; a normalised one is about 4 times as large.
            assert metrics[f"left{i}"] == pytest.approx(normalised[t, i, :, :16].mean(), abs=0.01)
            assert metrics[f"right{i}"] == pytest.approx(normalised[t, i, :, 16:].mean(), abs=0.01)
            assert metrics[f"label{i}"] == pytest.approx(labels[t, i] @ np.arange(8), abs=1e-4)


def test_samples_without_mixing_are_the_data():
    run = make_run(config(augment__mixup_alpha=0.0, total_steps=2, schedule__warmup_steps=0))
    images, labels = first_samples(run)
    batch = next(run.train_batches())
    assert len(images) == 2  # a run of two steps sees no more
    np.testing.assert_array_equal(images[0], batch["image"][:5])
    np.testing.assert_array_equal(labels[0].argmax(axis=1), batch["label"][:5])


def test_titles_of_samples():
    names = ["cat", "dog", "Staffordshire bullterrier, Staffordshire bull terrier"]
    assert class_shares(np.array([0.0, 1.0, 0.0]), names) == "dog"
    assert class_shares(np.array([0.3, 0.7, 0.0]), names) == "dog 0.70 / cat 0.30"
    assert class_shares(np.array([0.999, 0.001, 0.0]), names) == "cat"
    names[0] *= 3
    shares = np.array([0.4, 0.0, 0.6])
    assert class_shares(shares, names) == "Staffordshire bul… 0.60\ncatcatcat 0.40"


def test_schedule_is_drawn_over_steps_and_epochs(tmp_path, figures):
    run = make_run(config())
    schedule = run.optimizer.schedule
    plot_schedule(schedule, total_steps=30, steps_per_epoch=25.0, path=tmp_path / "s.png")
    (axes,) = figures[0].axes
    steps, rates = axes.lines[0].get_xydata().T
    np.testing.assert_array_equal(steps, np.arange(1, 31))
    np.testing.assert_allclose(rates, [schedule(step) for step in range(30)], rtol=1e-6)
    assert "0.001 at first, 0.005 at most" in axes.get_title(loc="left")
    (epochs,) = axes.child_axes
    assert epochs.get_xlabel() == "epoch" and axes.get_xlabel() == "step"
    np.testing.assert_allclose(epochs.get_xlim(), np.array(axes.get_xlim()) / 25)


def test_table_is_aligned():
    table = memory_table({"training": {"a": 2**20, "long name": 3 * 2**30}})
    assert table.splitlines() == [
        "           training",
        "a           1.0 MiB",
        "long name  3.00 GiB",
        "total      3.00 GiB",
    ]


def test_cold_compilation_neither_reads_nor_writes_the_cache(tmp_path):
    hits = []

    def listener(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    def compile_anew():
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x)).lower(jnp.ones((8, 8))).compile()
        return len(hits), sorted(path.name for path in tmp_path.glob("*-cache"))

    folder = jax.config.jax_compilation_cache_dir
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.monitoring.register_event_listener(listener)
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()
        jnp.ones((8, 8))
        compile_anew()
        seen, files = compile_anew()
        assert seen and files
        for _ in range(2):  # the second one would find what the first one had stored
            with without_compilation_cache():
                assert compile_anew() == (seen, files)
        assert compile_anew() == (seen + 1, files)
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        compilation_cache.reset_cache()
        jax.monitoring.unregister_event_listener(listener)


def test_evaluation_samples_are_what_an_evaluation_sees():
    """Spread over the split, cropped as in an evaluation, with their true classes."""
    run = make_run(config())
    images, shares = evaluation_samples(run)
    rows = spread(len(run.eval_source), 5)
    records = [run.eval_source[row] for row in rows]
    expected = [run.eval_transform(record["image"], None) for record in records]
    np.testing.assert_array_equal(images, [expected])
    assert shares.argmax(-1).tolist() == [[record["label"] for record in records]]


def test_preflight_beside_a_run(tmp_path, caplog):
    """It leaves the run alone, and the batch it finds is the largest one that fits."""
    caplog.set_level(logging.INFO)
    other = open_workdir(tmp_path, read_options(config(seed=7)))
    (other / "checkpoints" / "10").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    settings = config(accumulate_steps=2, **QUICK)
    memory = StepMemory(make_run(settings, devices=8))
    limit = total(memory.train(48)) + 1000
    preflight(settings, tmp_path, devices=8, memory_gib=limit / 2**30)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert {path.name for path in set(after) - set(before)} == PICTURES

    assert "8 outputs; mesh of data=8 x fsdp=1 on 8 cpu" in caplog.text
    assert "30 steps of 16 images: 1.2 epochs of 400 training images" in caplog.text
    assert re.search(r"total +\d+\.\d MiB +\d+\.\d MiB\n", caplog.text)
    (largest,) = map(int, re.findall(r"batch_size found to fit into .* is (\d+)", caplog.text))
    assert largest == 48 and total(memory.train(48 + 16)) > limit
    assert "does not fit" not in caplog.text


def test_what_to_do_where_something_does_not_fit():
    run = make_run(config(accumulate_steps=2), devices=8)
    memory = StepMemory(run)
    state = total(memory.state_parts())

    def verdict(limit, *, needed):
        memory.train = lambda size: {"all": needed(size)}
        train = memory.train(memory.run.options.batch_size)
        return _verdict(memory, train, {"all": 3 * state}, limit)

    assert re.search("The state alone needs .*fsdp", verdict(state - 1, needed=lambda _: state))
    text = verdict(2 * state, needed=lambda _: math.inf)
    assert re.search("No batch size from 16 on .*bfloat16", text)
    text = verdict(2 * state, needed=lambda size: (1 + size / 32) * state)
    assert re.search(r"is 32, which needs .*in steps of 16", text)
    assert "does not fit: lower --config.eval_batch_size" in text and "A batch of" not in text
    memory.run = make_run(config(accumulate_steps=2, batch_size=64), devices=8)
    text = verdict(2 * state, needed=lambda size: (1 + size / 32) * state)
    assert re.search("is 32, .* A batch of 64 does not fit: .*accumulate_steps", text)


def test_command_line(tmp_path):
    arguments = ("--config=configs/smoke.py", launching.CACHE, "--mode=preflight")
    result = launching.launch(*arguments, f"--workdir={tmp_path}/run", "--memory_gib=0")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == PICTURES
    assert "32,488 parameters" in result.stderr and "The state alone needs" in result.stderr


def test_a_gpu_that_is_not_here(tmp_path, caplog, monkeypatch):
    """The steps are compiled for its devices, here a CPU in their place; the inputs are drawn."""
    caplog.set_level(logging.INFO)
    seen, plans = [], []

    def plan_step(*arguments):
        plans.append(gpu_estimate.plan_step(*arguments))
        return plans[-1]

    @contextlib.contextmanager
    def compiled_for(name):
        with target_platform.tracing_for("gpu"):
            yield jax.devices()[7:]

    class Memory(StepMemory):
        def __init__(self, run, *, compiler_options):
            seen.append((run, run.mesh.devices.item(), target_platform.target_platform()))
            super().__init__(run)

    monkeypatch.setattr(flight, "compiled_for", compiled_for)
    monkeypatch.setattr(flight, "StepMemory", Memory)
    monkeypatch.setattr(flight, "plan_step", plan_step)
    settings = config(data__shapes__num_train=16, **QUICK)  # no larger batch to look for
    preflight(settings, tmp_path, target="h200")
    ((run, *where),), (plan,) = seen, plans
    assert where == [jax.devices()[7], "gpu"] and target_platform.target_platform() == "cpu"
    model = nnx.eval_shape(lambda: run.build(nnx.Rngs(0)))
    macs, _ = cost.total(cost.trace_model(model, cost.image_batch(model, 32, 32, 16)).work)
    assert (plan.macs, plan.batch_size, plan.gpu.name) == (macs, 16, "h200")
    assert {path.name for path in tmp_path.iterdir()} == PICTURES
    assert re.search(r"Estimate for one NVIDIA H200, .* images/s, MFU \d+%", caplog.text)
    assert "Of the 141.00 GiB of an NVIDIA H200, JAX takes three quarters" in caplog.text
    assert "found to fit into 105.75 GiB is 16" in caplog.text


@pytest.mark.parametrize("missing", ["topology not implemented", "cuDNN not found"])
def test_what_compiles_for_cuda_is_not_here(missing, tmp_path, monkeypatch):
    def get_topology_desc(**options):
        if missing.startswith("topology"):
            raise NotImplementedError(f"{missing} for {options['platform']}")

    def check_cudnn_version():
        raise RuntimeError(f"{missing}.")

    monkeypatch.setattr(gpu_target.topologies, "get_topology_desc", get_topology_desc)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", check_cudnn_version)
    gpu_target.gpu_devices.cache_clear()
    wanted = rf"compiles for an h100 is not here \({missing}.*\): type pip install 'jax\[cuda13\]'"
    with pytest.raises(InputError, match=wanted):
        preflight(config(), tmp_path, target="h100")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(InputError, match="cannot be written"):
        preflight(config(), tmp_path / "file" / "run", memory_gib=1.0)
