"""Checks of a config before anything is opened or built."""

import functools

from jaxvision.errors import InputError
from jaxvision.train.workdir import Config

# Option: least and greatest value that makes sense.
_RANGES = {
    "ema_decay": (0.0, 0.999999),
    "loss.label_smoothing": (0.0, 0.999),
    "augment.mixup_alpha": (0.0, 100.0),
    "augment.cutmix_alpha": (0.0, 100.0),
    "augment.mix_probability": (0.0, 1.0),
    "augment.cutmix_probability": (0.0, 1.0),
    "data.max_corrupt_fraction": (0.0, 1.0),
    "data.num_workers": (0, 1_000),
    "data.num_threads": (1, 1_000),
    "accumulate_steps": (1, 1_000_000),
    "max_skipped_steps": (1, 1_000_000),
    "checkpoint.keep": (1, 1_000_000),
}


def check_numbers(config: Config) -> None:
    """Checks the options that no function below checks by itself.

    Raises:
      InputError: naming the option, what it may be and what it is.
    """
    for name, (least, greatest) in _RANGES.items():
        value = functools.reduce(getattr, name.split("."), config)
        if not least <= value <= greatest:
            raise InputError(f"--config.{name} must be in {least}..{greatest}, got {value}.")
    metrics = [
        f"{weights}/{metric}"
        for weights in ("eval", *(["eval_ema"] if config.ema_decay else []))
        for metric in ("accuracy", "top5_accuracy")
    ]
    if config.checkpoint.best_metric not in metrics:
        raise InputError(
            f"--config.checkpoint.best_metric must be one of {', '.join(metrics)} (eval_ema needs "
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
