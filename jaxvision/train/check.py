"""Checks of a config before anything is opened or built."""

import functools
import re
from typing import Any

from jaxvision.errors import InputError
from jaxvision.train.workdir import Config

# Option: least and greatest value that makes sense.
_RANGES = {
    "seed": (0, 2**32 - 1),
    "model.num_classes": (0, 100_000_000),
    "total_steps": (0, 1_000_000_000),
    "total_epochs": (0.0, 1e6),
    "ema_decay": (0.0, 0.999999),
    "loss.label_smoothing": (0.0, 0.999),
    "optimizer.learning_rate": (0.0, 1e6),
    "optimizer.weight_decay": (0.0, 1e6),
    "optimizer.eps": (0.0, 1.0),
    "optimizer.clip_norm": (0.0, 1e9),
    "optimizer.clip_factor": (0.0, 1e6),
    "optimizer.layer_decay": (1e-6, 1.0),
    "optimizer.head_multiplier": (0.0, 1e6),
    "schedule.warmup_steps": (0, 1_000_000_000),
    "schedule.warmup_epochs": (0.0, 1e6),
    "schedule.warmup_percent": (0.0, 100.0),
    "schedule.warmup_factor": (0.0, 1.0),
    "schedule.cooldown_percent": (0.0, 100.0),
    "schedule.step_epochs": (0.0, 1e6),
    "schedule.step_factor": (0.0, 1.0),
    "schedule.power": (0.0, 100.0),
    "schedule.one_cycle_rise": (0.0, 1.0),
    "schedule.one_cycle_start_factor": (0.0, 1.0),
    "schedule.one_cycle_end_factor": (0.0, 1.0),
    "augment.crop_padding": (0, 10_000),
    "augment.rand_augment_layers": (0, 100),
    "augment.mixup_alpha": (0.0, 100.0),
    "augment.cutmix_alpha": (0.0, 100.0),
    "augment.mix_probability": (0.0, 1.0),
    "augment.cutmix_probability": (0.0, 1.0),
    "data.max_corrupt_fraction": (0.0, 1.0),
    "data.num_workers": (0, 1_000),
    "data.num_threads": (1, 1_000),
    "data.prefetch_examples": (1, 1_000_000_000),
    "data.max_pixels": (1, 1_000_000_000_000),
    "data.shapes.num_train": (1, 1_000_000_000_000),
    "data.shapes.num_eval": (1, 1_000_000_000_000),
    "accumulate_steps": (1, 1_000_000),
    "max_skipped_steps": (1, 1_000_000),
    "checkpoint.keep": (1, 1_000_000),
    "checkpoint.every_steps": (0, 1_000_000_000),
    "eval.every_steps": (0, 1_000_000_000),
    "log.every_steps": (0, 1_000_000_000),
}


def check_numbers(config: Config, *, metrics: tuple[str, ...]) -> None:
    """Checks the options that no function below checks by itself.

    Args:
      config: see configs/common.py.
      metrics: of the task, which the best checkpoint may have most of; (): not known yet.

    Raises:
      InputError: naming the option, what it may be and what it is.
    """
    for name, (least, greatest) in _RANGES.items():
        value = functools.reduce(getattr, name.split("."), config)
        if not least <= value <= greatest:
            raise InputError(f"--config.{name} must be in {least}..{greatest}, got {value}.")
    prefixes = ("eval", "eval_ema") if config.ema_decay else ("eval",)
    names = [f"{weights}/{metric}" for weights in prefixes for metric in metrics]
    if names and config.checkpoint.best_metric not in names:
        raise InputError(
            f"--config.checkpoint.best_metric must be one of {', '.join(names)} (eval_ema needs "
            f"--config.ema_decay above 0), got '{config.checkpoint.best_metric}'."
        )


def check_sizes(config: Config, num_devices: int) -> None:
    """Checks the image size, and that batches divide over devices and micro-batches.

    Raises:
      InputError: naming the option, what it may be and what it is.
    """
    image_size = config.data.image_size
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(
            "--config.data.image_size must be pixels, a whole number or '(height, width)', got "
            f"{image_size!r}."
        )
    unit = num_devices * config.accumulate_steps
    for name, size, divisor in (
        ("batch_size", config.batch_size, unit),
        ("eval_batch_size", config.eval_batch_size, num_devices),
    ):
        if size < 1 or size % divisor:
            raise InputError(
                f"--config.{name} must be a multiple of {divisor} ({num_devices} devices"
                + (f" x {config.accumulate_steps} micro-batches" if divisor == unit else "")
                + f"), got {size}."
            )


def check_sharding_rules(rules: tuple) -> None:
    """Checks the form of the rules; whether they fit an array is seen at `state_shardings`.

    Raises:
      InputError: showing the first rule that is none.
    """
    for rule in rules:
        try:
            pattern, axes = rule
            re.compile(pattern)
            known = isinstance(axes, tuple) and set(axes) <= {"data", "fsdp", None}
        except (TypeError, ValueError, re.error):
            known = False
        if not known:
            raise InputError(
                "Each of --config.sharding_rules must be (regex of a parameter path, (axis or None "
                f"of each dimension, ...)) with the axes 'data' and 'fsdp', got {rule!r}."
            )


def check_classes(num_classes: int, class_names: tuple[str, ...]) -> None:
    """Checks that a classifier can learn something from the training split, and has room for it.

    Raises:
      InputError: with the number of classes of the data and of the model.
    """
    if num_classes < len(class_names):
        raise InputError(
            f"--config.model.num_classes must be at least {len(class_names)}, the classes of the "
            f"training split, or 0 to take their number, got {num_classes}."
        )
    if num_classes < 2:
        raise InputError(
            f"The training split has one class, {class_names[0]!r}, but a classifier needs at least"
            " two: give each class its own folder or label."
        )


def check_model_sizes(sizes: dict[str, Any], defaults: Any) -> None:
    """Checks that what counts something in config.model.kwargs is a whole number of at least 1.

    Args:
      sizes: config.model.kwargs.
      defaults: the family's config, whose whole numbers are the counts.

    Raises:
      InputError: naming the option and what it is.
    """
    for name, value in sizes.items():
        is_count = type(getattr(defaults, name, None)) is int and name != "image_size"
        if is_count and not (type(value) is int and value >= 1):
            raise InputError(f"{name} must be a whole number of at least 1, got {value!r}.")
