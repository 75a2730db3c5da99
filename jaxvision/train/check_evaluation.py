"""Checks of config.eval before anything is opened or built."""

from jaxvision.data.augment.views import VIEWS
from jaxvision.data.sources.folder import CLASS_FOLDERS
from jaxvision.errors import InputError, check_choice
from jaxvision.train.image_sizes import sides
from jaxvision.train.workdir import Config

_LEAST_SEEN = 0.7  # of the short side; published models see 0.875 and more


def check_evaluation(config: Config) -> None:
    """Checks what an evaluation is told beside its data.

    Raises:
      InputError: naming the option, what it may be and what it is.
    """
    options, data = config.eval, config.data
    check_choice("--config.eval.tta", options.tta, VIEWS)
    check_choice("--config.eval.class_folders", options.class_folders, CLASS_FOLDERS)
    if options.class_folders == "indices" and data.name != "folder":
        raise InputError(
            "--config.eval.class_folders=indices is for --config.data.name=folder, got "
            f"'{data.name}': set it to names."
        )
    if not all(isinstance(path, str) and path for path in options.ensemble):
        raise InputError(
            "--config.eval.ensemble must be paths, \"('runs/a','weights.safetensors')\", got "
            f"{options.ensemble!r}."
        )
    if config.task != "classification" and (
        options.tta != "none" or options.ensemble or options.real_labels
    ):
        raise InputError(
            "--config.eval.tta, .ensemble and .real_labels are for --config.task=classification, "
            f"got '{config.task}': leave them out."
        )
    side = max(sides(data.image_size))
    if side < _LEAST_SEEN * data.eval_resize:
        raise InputError(
            f"An evaluation would see only the middle {side} of --config.data.eval_resize="
            f"{data.eval_resize} pixels: give about {round(side * 256 / 224)}, or 0 for images that"
            " need no resize."
        )
    if options.tta in ("five_crop", "ten_crop") and 0 < data.eval_resize <= side:
        raise InputError(
            f"--config.eval.tta={options.tta} cuts crops of {side} pixels out of images whose short"
            f" side has --config.data.eval_resize={data.eval_resize}: give more, e.g. "
            f"{round(side * 256 / 224)}."
        )
