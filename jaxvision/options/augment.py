"""config.augment: what happens to a training image, and to a batch of them."""

import dataclasses
import math

from jaxvision.errors import InputError, check_choice
from jaxvision.options.checks import are_numbers, check_limits, check_probability, check_ranges
from jaxvision.options.moco import PRESET
from jaxvision.options.size import MAX_SIDE

PRESETS = ("basic", "recommended", "deit", "torchvision_v2", "small_data", PRESET)
POLICIES = (
    "trivial_augment",
    "auto_augment_imagenet",
    "auto_augment_cifar10",
    "auto_augment_svhn",
    "aug_mix",
    "three_augment",
)
CROPS = ("random_resized", "pad", "center", "none")
BORDERS = ("black", "reflect")
# What a preset leaves to the user: what is done to batches, and where.
_BESIDE_A_PRESET = frozenset(
    "preset on_device stored_size repeats "
    "mixup_alpha cutmix_alpha mix_probability cutmix_probability".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """The options of config.augment; configs/common.py has their units and meanings."""

    preset: str = ""
    crop: str = "random_resized"
    crop_scale: tuple = (0.08, 1.0)
    crop_ratio: tuple = (3 / 4, 4 / 3)
    crop_antialias: bool = False
    crop_padding: int = 4
    crop_border: str = "black"
    horizontal_flip: float = 0.5
    alternating_flip: bool = False
    vertical_flip: float = 0.0
    rotation: float = 0.0
    shift_scale_rotate: tuple = (0.0, 0.0, 0.0)
    perspective: float = 0.0
    rand_augment_layers: int = 0
    rand_augment_magnitude: int = 9
    policy: str = ""
    color_jitter: tuple = (0.0, 0.0, 0.0, 0.0)
    grayscale: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erasing: float = 0.0
    on_device: bool = False
    stored_size: int = 0
    repeats: int = 1
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_probability: float = 1.0
    cutmix_probability: float = 0.5

    def __post_init__(self):
        check_ranges(
            "augment",
            self,
            crop_padding=(0, 10_000),
            rand_augment_layers=(0, 100),
            stored_size=(0, MAX_SIDE),
            repeats=(1, 1_000),
            mixup_alpha=(0.0, 100.0),
            cutmix_alpha=(0.0, 100.0),
            mix_probability=(0.0, 1.0),
            cutmix_probability=(0.0, 1.0),
        )
        if self.preset:
            check_choice("augment.preset", self.preset, PRESETS)
            self._check_alone()
            self._check_crop()
        else:
            self._check_single_options()
        if self.stored_size:
            self._check_stored()

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are blended with each other."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def _check_single_options(self) -> None:
        check_choice("augment.crop", self.crop, CROPS)
        check_choice("augment.crop_border", self.crop_border, BORDERS)
        if self.alternating_flip and (self.horizontal_flip != 0.5 or self.repeats > 1):
            raise InputError(
                "config.augment.alternating_flip=True mirrors each image in every second pass: "
                "leave --config.augment.horizontal_flip at 0.5 and --config.augment.repeats at 1, "
                f"instead of {self.horizontal_flip} and {self.repeats}."
            )
        for name in (
            *("horizontal_flip", "vertical_flip", "perspective"),
            *("grayscale", "blur", "noise", "erasing"),
        ):
            check_probability(f"config.augment.{name}", getattr(self, name))
        self._check_crop()
        jitter = self.color_jitter
        if not are_numbers(jitter, 4) or min(jitter) < 0 or jitter[3] > 0.5:
            raise InputError(
                "config.augment.color_jitter is (brightness, contrast, saturation, hue), each at "
                f"least 0 and the hue at most 0.5, but is {tuple(jitter)}."
            )
        check_limits("config.augment.rotation", (self.rotation,), {"degrees": 180.0})
        check_limits(
            "config.augment.shift_scale_rotate",
            self.shift_scale_rotate,
            {"shift": 1.0, "scale": 0.99, "degrees": 180.0},
        )
        if self.policy:
            check_choice("augment.policy", self.policy, POLICIES)
            if self.rand_augment_layers:
                raise InputError(
                    f"config.augment.policy={self.policy} takes the place of RandAugment: set"
                    " --config.augment.rand_augment_layers=0, or the policy to ''."
                )

    def _check_crop(self) -> None:
        for name, greatest in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            pair = getattr(self, name)
            if not are_numbers(pair, 2) or not 0 < pair[0] <= pair[1] <= greatest:
                raise InputError(
                    f"config.augment.{name} is (least, greatest), both above 0"
                    + (" and at most 1" if greatest == 1.0 else "")
                    + f", but is {tuple(pair)}."
                )

    def _check_alone(self) -> None:
        """Checks that no single option stands beside a preset, which would not heed it."""
        beside = _BESIDE_A_PRESET | ({"crop_scale"} if self.preset == PRESET else set())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in beside and value != field.default:
                raise InputError(
                    f"config.augment.preset={self.preset} decides all operations on an image: leave"
                    f" --config.augment.{field.name} at {field.default!r} instead of {value!r}, or "
                    "set the preset to ''."
                )

    def _check_stored(self) -> None:
        if not self.on_device:
            raise InputError(
                "config.augment.stored_size is the size that images are cut from on the device: set"
                " --config.augment.on_device=True, too, or --config.augment.stored_size=0."
            )
        if not self.preset and self.crop != "random_resized":
            raise InputError(
                "config.augment.stored_size is the size that random_resized cuts from, but "
                f"config.augment.crop is {self.crop}: set --config.augment.stored_size=0."
            )
