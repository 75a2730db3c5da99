"""Every recipe card loads, is locked, and describes a run that can be built."""

import importlib.util
import pathlib

import pytest

from configs import common
from jaxvision.train.setup import make_run

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
    assert "launch.py" in module.__doc__, "a recipe card says how to run it"
    assert set(keys(config)) == set(keys(common.get_config()))


@pytest.mark.parametrize("name", NEEDS_NO_DATA)
def test_card_without_data_describes_a_run(name):
    _, config = load(name)
    config.batch_size = config.eval_batch_size = 64
    run = make_run(config)
    assert run.total_steps > 0 and run.num_classes == 8


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


def test_every_option_of_the_schema_is_read_somewhere():
    package = pathlib.Path(__file__).parent.parent
    code = "\n".join(
        p.read_text() for p in [*(package / "jaxvision").rglob("*.py"), package / "launch.py"]
    )
    options = {key.split(".")[-1] for key in keys(common.get_config())}
    unread = {o for o in options if f".{o}" not in code and f"{o}:" not in code}
    assert not unread, f"nobody reads {sorted(unread)}: delete the option"
