"""`python launch.py --help`, and the options that it reads out of configs/common.py."""

import inspect

import pytest
from launching import launch, options

from configs import common
from jaxvision.command_line import nearest_option
from jaxvision.options.help import option_comments, options_help

SOURCE = inspect.getsource(common)


def flattened(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items") and len(value):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_every_option_has_a_comment():
    comments = option_comments(SOURCE)
    names = [name for name, _ in flattened(common.get_config())]
    assert len(names) > 150
    assert [name for name in names if not comments.get(name)] == []
    assert comments["optimizer.learning_rate"] == "peak"
    assert comments["seed"] == "of initialisation, data order, augmentation and dropout"
    assert comments["data.image_size"] == "pixels: int or (height, width)"  # of several lines
    above = "Decoupled and scaled by the learning rate; adam, both sgd, lars and the rmsprops: L2"
    assert comments["optimizer.weight_decay"] == f"{above} (torch)."
    assert comments["swa.every_epochs"].startswith("passes over the training split; between two")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_lines_fit_and_values_are_the_configs(width):
    config = common.get_config()
    config.optimizer.learning_rate = 0.25
    config.model.kwargs = {"depth": 3}
    lines = options_help(config, SOURCE, width=width).splitlines()
    assert max(map(len, lines)) <= width
    words = {line.split()[0] for line in lines if line}
    assert {"--config.optimizer.learning_rate=0.25", "--config.model.kwargs.depth=3"} <= words
    assert {"--config.optimizer.*", "--config.model.init_from=''"} <= words
    assert "  --config.augment.crop_scale='(0.08, 1.0)'" in [line[:43] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "--config.batch_size=256 "),
        (["-h"], "--config.batch_size=256 "),
        (["--config=configs/quickstart.py", "--helpfull"], "--config.batch_size=64 "),
        (["--help", "--config=configs/vit_b16.py:cifar10", *options(seed=7)], "--config.seed=7 "),
    ],
)
def test_help_is_printed(arguments, expected):
    done = launch(*arguments)
    assert done.returncode == 0 and not done.stderr
    assert expected in done.stdout and "Default: train." in done.stdout
    for mode in ("train", "eval", "preflight", "find_lr"):
        assert f"\n  {mode} " in done.stdout
    for flag in ("config", "workdir", "mode", "distributed", "memory_gib", "for"):
        assert f"\n  --{flag}=" in done.stdout


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("swa.lr", "swa.learning_rate"),
        ("swa.learning_rat", "swa.learning_rate"),
        ("optmizer.name", "optimizer.name"),
        ("optmizer", "optimizer"),
        ("wd", "optimizer.weight_decay"),
        ("epochs", "total_epochs"),
        ("model.image_size", "data.image_size"),
        ("optimizer.batch_size", "batch_size"),
        ("batch_size.x", "batch_size"),
        ("augment.mixup", "augment.mixup_alpha"),
        ("zzz", None),
        ("log.foo.bar", None),
    ],
)
def test_suggestions_go_across_groups(typed, meant):
    assert nearest_option(typed, list(option_comments(SOURCE))) == meant
