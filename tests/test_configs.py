"""Every recipe card loads, is locked, and describes a run that can be built."""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import pathlib
import re

import pytest
from opening import make_run

from configs import common, deit_s16
from jaxvision.data.augment.policies import RandAugment
from jaxvision.data.augment.transforms import train_transform
from jaxvision.errors import InputError
from jaxvision.options.length import LENGTH_UNITS, RunLength, drop_other_units
from jaxvision.options.options import Options, read_options
from jaxvision.options.run import EvalOptions

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
CARDS = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "common")
NEEDS_NO_DATA = [
    "quickstart",
    "smoke",
    "vit_b16",
    "deit_s16",
    "swin_t",
    "pvt_v2_b2",
    "resnet50",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "recommended",
    "transfer_resnet50",
    "resnet50_v2",
    "distill_vit",
]
# Every other choice behind the colon whose data is there, or is not needed to describe the run.
VARIANTS = [("distill_vit", "alone")]  # those of transfer_resnet50 have a test of their own
# The rest must still load and lie inside the schema.
LARGE = [
    *((name, "imagenet2012") for name in ("vit_b16", "deit_s16", "swin_t", "pvt_v2_b2")),
    *((name, "imagenet2012") for name in ("resnet50", "resnet50_v2", "mobilenet_v3_large")),
    *((name, "imagenet2012") for name in ("efficientnet_b0", "distill_vit")),
    *((name, "folder") for name in ("vit_b16", "deit_s16", "swin_t", "pvt_v2_b2", "resnet50")),
    *((name, "folder") for name in ("mobilenet_v3_large", "efficientnet_b0", "resnet50_v2")),
    ("recommended", "folder"),
    ("vit_b16", "cifar10"),
    ("swin_t", "cifar10"),
    ("vit_cifar10", "transfer"),
    ("caltech101", "mobilenet_v3_large"),
    ("caltech101", "efficientnet_b0"),
    ("distill_vit", "student"),
    ("cifar10_fast", "gpu"),
    *(("cifar_resnet", net) for net in ("resnet56", "resnet110", "plain20", "plain56")),
]


def load(name, *argument):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config(*argument)


def keys(config, prefix=""):
    for key, value in config.items():
        yield f"{prefix}{key}"
        if hasattr(value, "items") and key != "kwargs":
            yield from keys(value, f"{prefix}{key}.")


@pytest.mark.parametrize("name", CARDS)
def test_card_is_locked_and_inside_the_schema(name):
    module, config = load(name)
    assert config.is_locked and module.__doc__
    assert re.search("jaxvision train|launch.py", module.__doc__), (
        "a recipe card says how to run it"
    )
    assert set(keys(config)) == set(keys(common.get_config()))


@pytest.mark.parametrize(("name", "argument"), LARGE)
def test_every_choice_of_a_card_is_inside_the_schema(name, argument):
    module, config = load(name, argument)
    assert config.is_locked and argument in module.__doc__
    assert set(keys(config)) == set(keys(common.get_config()))
    if config.distill.teacher and not config.distill.teacher_weights:
        with config.unlocked():
            config.distill.teacher_weights = "teacher.safetensors"  # the command line must give it
    options = read_options(config)
    train_transform(config.data.image_size, options.augment)


@pytest.mark.parametrize("name", CARDS)
def test_an_unknown_choice_is_refused(name):
    module, _ = load(name)
    if inspect.signature(module.get_config).parameters:
        with pytest.raises(ValueError, match="Unknown .*choose"):
            module.get_config("none")


@pytest.mark.parametrize(("name", "argument"), [*((n, None) for n in NEEDS_NO_DATA), *VARIANTS])
def test_card_without_data_describes_a_run(name, argument):
    _, config = load(name, *filter(None, [argument]))
    config.batch_size = config.eval_batch_size = 64
    run = make_run(config)
    assert run.total_steps > 0 and run.num_outputs == 8


def test_imagenet_recipe_is_torchvisions():
    _, config = load("vit_b16", "imagenet2012")
    assert (config.total_epochs, config.batch_size) == (300, 4096)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("adamw", 3e-3)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.3, 1.0)
    assert (config.schedule.warmup_epochs, config.loss.label_smoothing) == (30, 0.11)
    assert (config.augment.mixup_alpha, config.augment.cutmix_alpha) == (0.2, 1.0)


def test_imagenet_recipe_is_deits():
    _, config = load("deit_s16", "imagenet2012")
    assert (config.total_epochs, config.batch_size) == (300, 1024)
    optimizer, augment = config.optimizer, config.augment
    assert (optimizer.learning_rate, optimizer.weight_decay) == (1e-3, 0.05)
    assert (config.schedule.warmup_epochs, config.loss.label_smoothing) == (5, 0.1)
    assert (augment.mixup_alpha, augment.cutmix_alpha) == (0.8, 1.0)
    assert config.model.kwargs.drop_path_rate == 0.1
    assert (augment.preset, augment.repeats) == ("deit", 3)


def test_recommended_recipe_is_the_courses():
    """AdamW .001, wd .01, cosine + 5 warmup, RandAugment, ls .1, dropout .3, AMP, mixup .2."""
    for data in ("shapes", "folder"):
        _, config = load("recommended", data)
        optimizer, schedule = config.optimizer, config.schedule
        assert (optimizer.name, optimizer.learning_rate) == ("adamw", 0.001)
        assert optimizer.weight_decay == 0.01
        assert (schedule.name, schedule.warmup_epochs) == ("warmup_cosine", 5)
        transforms = train_transform(64, read_options(config).augment).operations
        assert [(t.layers, t.magnitude) for t in transforms if isinstance(t, RandAugment)] == [
            (2, 9)
        ]
        assert config.loss.label_smoothing == 0.1
        assert config.model.kwargs.dropout_rate == 0.3
        assert config.model.dtype == "bfloat16"
        assert config.augment.mixup_alpha == 0.2
        assert (config.total_epochs, config.batch_size) == (100, 32)


def test_imagenet_recipe_is_torchvisions_new_one():
    _, config = load("resnet50_v2", "imagenet2012")
    optimizer, schedule, augment = config.optimizer, config.schedule, config.augment
    assert (config.total_epochs, config.batch_size) == (600, 1024)
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.5, 0.9)
    assert (optimizer.weight_decay, optimizer.nesterov) == (2e-5, False)
    assert (schedule.warmup_epochs, schedule.warmup_factor) == (5, 0.01)
    assert (augment.preset, augment.repeats) == ("torchvision_v2", 4)
    assert (augment.mixup_alpha, augment.cutmix_alpha) == (0.2, 1.0)
    assert (config.loss.label_smoothing, config.data.image_size) == (0.1, 176)
    # torchvision's model_ema_decay 0.99998 and model_ema_steps 32, adjusted to batch and epochs.
    every_32 = 1 - 2e-5 * 1024 * 32 / 600
    assert config.ema_decay == pytest.approx(every_32 ** (1 / 32), abs=1e-6)


def test_transfer_recipes_are_the_courses():
    rates = {}
    for what in ("full", "head", "gradual", "lp_ft", "lora", "discriminative"):
        _, config = load("transfer_resnet50", what)
        with config.unlocked():
            config.data.image_size = 32
        groups = make_run(config).groups
        rates[what] = {
            round(g.learning_rate * config.optimizer.learning_rate, 12)
            for g in groups.values()
            if g.start_step is not None
        }
        epoch = 2_000 / 32
        if what == "head":
            assert {g.start_step for n, g in groups.items() if "head" not in n} == {None}
        if what == "gradual":
            starts = {g.start_step for g in groups.values()}
            assert starts == {0, *(round(epoch * n) for n in (5, 10, 15))}
        if what == "lp_ft":
            assert {g.start_step for g in groups.values()} == {0, round(epoch * 20) // 2}
        assert ("stages/0/0/conv1/adapter/lora_a" in groups) == (what == "lora")
        assert groups["head/kernel"].start_step == 0
    assert rates["full"] == {1e-4, 1e-3} and rates["head"] == rates["lora"] == {1e-3}
    assert rates["discriminative"] == {1e-4, 3e-4, 6e-4, 1e-3, 1e-2}


@pytest.mark.parametrize("name", ["caption_coco", "caption_flickr8k"])
def test_captioning_recipes_are_those_of_the_course(name):
    _, config = load(name)
    assert config.task == "captioning" and 64 <= config.batch_size <= 128
    assert (config.optimizer.learning_rate, config.schedule.warmup_steps) == (3e-4, 4_000)
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("adamw", 0.01)
    kwargs = config.model.kwargs
    assert (kwargs.dropout_rate, kwargs.attention_dropout_rate) == (0.1, 0.1)
    assert config.loss.label_smoothing == 0.1


def test_the_rungs_of_the_flickr_ladder():
    names = ("pooled", "grid", "beam", "full", "small")
    rungs = [load("caption_flickr8k", name)[1] for name in names]
    assert [r.model.kwargs.memory for r in rungs] == ["pooled", "grid", "grid", "grid", "grid"]
    assert [r.caption.num_beams for r in rungs] == [1, 1, 3, 3, 3]
    assert [r.loss.label_smoothing for r in rungs] == [0, 0, 0, 0.1, 0.1]
    assert [r.data.image_size for r in rungs] == [224, 224, 224, 224, 96]
    with pytest.raises(ValueError, match="Unknown rung"):
        load("caption_flickr8k", "none")


def leaves(group, prefix=""):
    """Yields (name, default) of every option of a dataclass and of those inside it."""
    for field in dataclasses.fields(group):
        # As written: a check may replace a default by what it stands for.
        written = field.default is not dataclasses.MISSING
        default = field.default if written else getattr(group, field.name)
        if dataclasses.is_dataclass(default):
            yield from leaves(default, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", default


def test_the_schema_and_the_types_are_the_same():
    """Names, defaults and types: an option cannot exist in one of them alone."""
    schema = common.get_config()
    listed = {}
    for name in keys(schema):
        value = functools.reduce(getattr, name.split("."), schema)
        if name == "model.kwargs":
            listed[name] = {}
        elif not hasattr(value, "items"):
            listed[name] = value
    typed = dict(leaves(Options()))
    assert listed == typed
    assert {n: type(x) for n, x in listed.items()} == {n: type(x) for n, x in typed.items()}
    assert read_options(schema) == Options()


def test_a_length_on_the_command_line_replaces_the_cards_in_another_unit():
    config = deit_s16.get_config("imagenet2012")
    assert config.total_epochs and config.schedule.warmup_epochs
    config.total_steps, config.schedule.warmup_steps = 50, 9
    drop_other_units(config, ["total_steps", "schedule.warmup_steps", "seed"])
    options = read_options(config)
    assert options.length(1_000).total_steps == 50
    assert (options.schedule.warmup_steps, options.schedule.warmup_epochs) == (9, 0)
    both = deit_s16.get_config("imagenet2012")
    both.total_steps = 50
    drop_other_units(both, ["total_steps", "total_epochs"])
    assert both.total_steps and both.total_epochs  # refused, as two are given
    both.schedule.warmup_steps = 0
    drop_other_units(both, ["schedule.warmup_steps"])
    assert not both.schedule.warmup_epochs  # 0 in any unit is no warmup


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ({"every_steps": 4}, [4, 8, 12]),
        ({"every_epochs": 1.0}, [2, 5, 8, 10, 12]),  # of 2.5 steps: each ends where `step_of` says
        ({"every_epochs": 2.0}, [5, 10]),
        ({"every_epochs": 0.1}, [*range(1, 14)]),  # at most one a step
        ({"every_examples": 64}, [4, 8, 12]),
        ({"every_percent": 50.0}, [6, 13]),
        ({}, []),
    ],
)
def test_a_cadence_in_any_unit(every, steps):
    length = RunLength(total_steps=13, num_examples=40, batch_size=16)
    cadence = length.cadence(EvalOptions(**{"every_steps": 0} | every), group="eval")
    assert [step for step in range(1, 14) if cadence.count(step)] == steps
    if every == {"every_epochs": 1.0}:
        assert steps == [length.step_of(epoch) for epoch in range(1, 6)]


def test_a_cadence_on_the_command_line_replaces_the_default():
    config = common.get_config()
    config.eval.every_epochs = 1.0
    with pytest.raises(InputError, match="every_steps=1000 and every_epochs=1.0"):
        RunLength(total_steps=9, num_examples=9, batch_size=1).cadence(
            read_options(config).eval, group="eval"
        )
    drop_other_units(config, ["eval.every_epochs"])
    assert not config.eval.every_steps and config.checkpoint.every_steps


def read_fields(path):
    """Yields each attribute name that a file reads, and each length that it asks for by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "updates":
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield from (f"{argument.value}_{unit}" for unit in LENGTH_UNITS)


def test_every_option_is_read():
    """Outside of the types, whose own checks do not use an option."""
    package = pathlib.Path(__file__).parent.parent
    files = [p for p in (package / "jaxvision").rglob("*.py") if p.parent.name != "options"]
    read = {name for path in files for name in read_fields(path)}
    read |= {f"every_{unit}" for unit in LENGTH_UNITS}  # by RunLength.cadence
    spread = {"num_train", "num_eval", "difficulty"}  # handed on as a whole, see ShapesSource
    options = {name.split(".")[-1] for name, _ in leaves(Options())}
    indirect = {"total_steps", "total_epochs"}  # by Options.length
    unread = options - read - spread - indirect
    assert not unread, f"nobody reads {sorted(unread)}: delete the option"


def test_an_unknown_option_is_refused():
    with pytest.raises(InputError, match="no option --config.augment.blurr"):
        read_options({"augment": {"blurr": 0.5}})
