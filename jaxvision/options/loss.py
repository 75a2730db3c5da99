"""config.loss and config.distill: what training makes smaller."""

import dataclasses
from typing import Any

from jaxvision.errors import InputError, check_choice
from jaxvision.options.checks import are_numbers, check_ranges
from jaxvision.options.size import MAX_SIDE, is_size

LOSSES = ("softmax_cross_entropy", "bce", "focal", "sigmoid_focal", "asymmetric")
MULTI_LABEL_LOSSES = ("bce", "sigmoid_focal", "asymmetric")
SOFTMAX_LOSSES = ("softmax_cross_entropy", "focal")
CLASS_WEIGHTS = ("none", "balanced", "effective")
SMOOTHING_OVER = ("all", "wrong")
TEACHER_LOSSES = ("soft", "hard", "none")
TEACHER_FEATURES = ("none", "mse", "cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The options of config.loss; configs/common.py has their units and meanings."""

    name: str = "softmax_cross_entropy"
    label_smoothing: float = 0.0
    smoothing_over: str = "all"
    target_threshold: float = 0.0
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    negative_clip: float = 0.05
    class_weights: Any = "none"
    effective_beta: float = 0.9999
    logit_adjustment: float = 0.0

    def __post_init__(self):
        check_ranges(
            "loss",
            self,
            label_smoothing=(0.0, 0.999),
            target_threshold=(0.0, 1.0),
            focal_gamma=(0.0, 100.0),
            focal_alpha=(-1.0, 1.0),
            gamma_negative=(0.0, 100.0),
            gamma_positive=(0.0, 100.0),
            negative_clip=(0.0, 0.999),
            effective_beta=(0.0, 0.999_999_999),
            logit_adjustment=(0.0, 100.0),
        )
        self._check_class_weights()
        check_choice("--config.loss.name", self.name, LOSSES)
        check_choice("--config.loss.smoothing_over", self.smoothing_over, SMOOTHING_OVER)
        if self.target_threshold and self.name != "bce":
            raise InputError(
                "--config.loss.target_threshold is for --config.loss.name=bce: set it to 0, got "
                f"{self.target_threshold}."
            )
        if self.logit_adjustment and self.name not in SOFTMAX_LOSSES:
            raise InputError(
                "--config.loss.logit_adjustment is for --config.loss.name="
                f"{' and '.join(SOFTMAX_LOSSES)}: set it to 0, got {self.logit_adjustment}."
            )

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str):
            check_choice("--config.loss.class_weights", weights, CLASS_WEIGHTS)
            return
        given = isinstance(weights, tuple) and are_numbers(weights, len(weights))
        if not (given and any(weights) and min(weights) >= 0):
            raise InputError(
                f"--config.loss.class_weights is {', '.join(CLASS_WEIGHTS)} or a number for each "
                f"class, '(1.0, 2.5, ...)', none below 0 and not all 0, got {weights!r}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """The options of config.distill; configs/common.py has their units and meanings."""

    teacher_weights: str = ""
    teacher: str = ""
    loss: str = "soft"
    alpha: float = 0.5
    temperature: float = 1.0
    image_size: Any = 0  # a Size, once it is checked; 0: the student's
    teacher_image_size: Any = 0  # likewise; 0: as the teacher's weights say
    features: str = "none"
    feature_stride: int = 0
    feature_weight: float = 1.0

    def __post_init__(self):
        check_ranges(
            "distill",
            self,
            alpha=(0.0, 1.0),
            temperature=(1e-3, 1e3),
            feature_weight=(0.0, 1e9),
        )
        check_choice("--config.distill.loss", self.loss, TEACHER_LOSSES)
        check_choice("--config.distill.features", self.features, TEACHER_FEATURES)
        if not self.teacher_weights and (self.teacher or self.features != "none"):
            raise InputError(
                "A teacher needs weights: give --config.distill.teacher_weights=FILE or the "
                "folder of a run, or leave --config.distill.teacher and .features out."
            )
        for name in ("image_size", "teacher_image_size"):
            size = getattr(self, name)
            if size and not is_size(size):
                raise InputError(
                    f"--config.distill.{name} must be pixels up to {MAX_SIDE}, a whole number or "
                    f"'(height, width)', or 0, got {size!r}."
                )
