"""Checks of a config before anything is opened or built."""

import functools
import re
from typing import Any

import jax

from jaxvision.errors import InputError, check_choice
from jaxvision.metrics.losses import smoothing_of_all
from jaxvision.train.image_sizes import is_size
from jaxvision.train.workdir import Config

# Option: least and greatest value that makes sense.
_RANGES = {
    "seed": (0, 2**32 - 1),
    "model.num_classes": (0, 100_000_000),
    "total_steps": (0, 1_000_000_000),
    "total_epochs": (0.0, 1e6),
    "ema_decay": (0.0, 0.999999),
    "loss.label_smoothing": (0.0, 0.999),
    "loss.target_threshold": (0.0, 1.0),
    "distill.alpha": (0.0, 1.0),
    "distill.temperature": (1e-3, 1e3),
    "distill.feature_weight": (0.0, 1e9),
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
    "schedule.plateau_patience": (0, 1_000_000),
    "schedule.plateau_threshold": (0.0, 1e9),
    "schedule.plateau_cooldown": (0, 1_000_000),
    "schedule.plateau_min_learning_rate": (0.0, 1e6),
    "swa.learning_rate": (0.0, 1e6),
    "swa.batch_norm_batches": (0, 1_000_000),
    "eval.batch_norm_batches": (0, 1_000_000),
    "early_stopping.patience": (0, 1_000_000),
    "early_stopping.min_delta": (0.0, 1e9),
    "find_lr.num_steps": (20, 1_000_000),
    "find_lr.smoothing": (0.0, 0.999999),
    "find_lr.stop_factor": (1.0, 1e9),
    "augment.crop_padding": (0, 10_000),
    "augment.rand_augment_layers": (0, 100),
    "augment.repeats": (1, 1_000),
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
      metrics: of the task, by which evaluations may be compared; (): not known yet.

    Raises:
      InputError: naming the option, what it may be and what it is.
    """
    for name, (least, greatest) in _RANGES.items():
        value = functools.reduce(getattr, name.split("."), config)
        if not least <= value <= greatest:
            raise InputError(f"--config.{name} must be in {least}..{greatest}, got {value}.")
    swa = any(value for name, value in config.swa.items() if name.startswith("start_"))
    prefixes = ["eval", *["eval_ema"] * (config.ema_decay > 0), *["eval_swa"] * swa]
    names = [f"{weights}/{metric}" for weights in prefixes for metric in metrics]
    chosen = {"checkpoint.best_metric": config.checkpoint.best_metric}
    if config.schedule.name == "plateau":
        chosen["schedule.plateau_metric"] = config.schedule.plateau_metric
    if config.early_stopping.patience:
        chosen["early_stopping.metric"] = config.early_stopping.metric
    for option, name in chosen.items():
        if names and name not in names:
            raise InputError(
                f"--config.{option} must be one of {', '.join(names)} (eval_ema needs "
                f"--config.ema_decay above 0, eval_swa --config.swa.start_*), got '{name}'."
            )


def check_loss(config: Config, num_outputs: int) -> float:
    """Checks the loss of a task, and returns its label smoothing over all outputs.

    Args:
      config: see configs/common.py.
      num_outputs: classes, or words of the vocabulary.

    Raises:
      InputError: naming the option, what it may be and what it is.
    """
    loss = config.loss
    check_choice("--config.loss.name", loss.name, ("softmax_cross_entropy", "bce"))
    check_choice("--config.loss.smoothing_over", loss.smoothing_over, ("all", "wrong"))
    if config.task == "captioning" and (loss.name == "bce" or config.distill.teacher_weights):
        raise InputError(
            "Captions are learned by --config.loss.name=softmax_cross_entropy and without a "
            "teacher: leave --config.loss.name and --config.distill.teacher_weights out."
        )
    if loss.target_threshold and loss.name != "bce":
        raise InputError(
            "--config.loss.target_threshold is for --config.loss.name=bce: set it to 0, got "
            f"{loss.target_threshold}."
        )
    if loss.smoothing_over == "all" or not loss.label_smoothing:
        return loss.label_smoothing
    return smoothing_of_all(loss.label_smoothing, num_outputs)


def check_sizes(config: Config, num_devices: int) -> None:
    """Checks the image size, and that batches divide over devices and micro-batches.

    Raises:
      InputError: naming the option, what it may be and what it is.
    """
    image_size = config.data.image_size
    if not is_size(image_size):
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


def check_remat(remat: Any) -> None:
    """Checks config.model.kwargs.remat, and that the devices can do what it asks for.

    Raises:
      InputError: saying what it may be, or that the devices cannot keep arrays on the host.
    """
    if remat not in (False, True, "offload"):
        raise InputError(
            f"--config.model.kwargs.remat must be False, True or offload, got {remat!r}."
        )
    device = jax.local_devices()[0]
    kinds = {memory.kind for memory in device.addressable_memories()}
    if remat == "offload" and "pinned_host" not in kinds:
        raise InputError(
            f"--config.model.kwargs.remat=offload needs devices that reach the memory of the host, "
            f"but a {device.device_kind} reaches only {', '.join(sorted(kinds))}: set it to True."
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
