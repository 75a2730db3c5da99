"""Which preset the number of images speaks for, where a run starts from given weights."""

import math

from jaxvision.options.options import Options

# Images of the training split below which a row holds; preset if they look like those that the
# weights were trained on, and if they do not.
_POLICY = (
    (1_000, "head", "late"),
    (10_001, "half", "most"),
    (math.inf, "full_low_lr", "full"),
)


def suggested_presets(num_images: int) -> tuple[str, str]:
    """Returns the values of config.optimizer.preset for images like the old ones, and for others.

    The fewer images, the fewer parameters they can train; the stranger they are, the earlier the
    layers that must change.

    Args:
      num_images: Number of images of the training split.
    """
    return next((like, unlike) for below, like, unlike in _POLICY if num_images < below)


def transfer_advice(options: Options, num_images: int) -> str | None:
    """Returns what the number of images speaks for, and what a run does; None from scratch.

    Args:
      options: Options of the run.
      num_images: Number of images of the training split.
    """
    if not options.model.init_from:
        return None
    like, unlike = suggested_presets(num_images)
    optimizer = options.optimizer
    own = f"'{optimizer.preset}'" + (" with rules" if optimizer.rules else "")
    own += " with a timetable" if optimizer.unfreeze else ""
    return (
        f"For {num_images:,} training images, try --config.optimizer.preset={like} if "
        f"they look like those that {options.model.init_from} was trained on, or {unlike} if "
        f"they do not; this run has {own}."
    )
