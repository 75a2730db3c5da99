"""config.data: which examples, and how they are read."""

import dataclasses
from typing import Any

from jaxvision.errors import InputError, check_choice
from jaxvision.options.checks import check_ranges
from jaxvision.options.size import MAX_SIDE, is_size, sides

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
CROP_MODES = ("center", "squash")
AUTO = "auto"
SAMPLING = {"uniform": 1.0, "balanced": 0.0, "sqrt": 0.5}
_LEAST_SEEN = 0.7  # of the short side; published models see 0.875 and more


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapesOptions:
    """The options of config.data.shapes, the built-in data."""

    num_train: int = 50_000
    num_eval: int = 2_000
    difficulty: str = "medium"

    def __post_init__(self):
        most = 1_000_000_000_000
        check_ranges("data.shapes", self, num_train=(1, most), num_eval=(1, most))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options of config.data; configs/common.py has their units and meanings."""

    name: str = "shapes"
    path: str = ""
    train_split: str = "train"
    eval_split: str = "test"
    image_column: str = ""
    label_column: str = ""
    images: str = ""
    features: str = ""
    skip_missing: bool = False
    label_separator: str = ";"
    sampling: Any = "uniform"
    image_size: Any = 224  # a Size, once it is checked
    image_size_schedule: tuple = ()
    num_workers: int = 0
    num_threads: int = 16
    prefetch_examples: int = 512
    max_corrupt_fraction: float = 0.01
    max_pixels: int = 89_478_485
    exif_orientation: bool = False
    reduced_decoding: bool = False
    eval_resize: int = -1
    eval_crop: str = AUTO
    interpolation: str = AUTO
    mean: tuple = ()
    std: tuple = ()
    shapes: ShapesOptions = dataclasses.field(default_factory=ShapesOptions)

    def __post_init__(self):
        check_ranges(
            "data",
            self,
            max_corrupt_fraction=(0.0, 1.0),
            num_workers=(0, 1_000),
            num_threads=(1, 1_000),
            prefetch_examples=(1, 1_000_000_000),
            max_pixels=(1, 1_000_000_000_000),
        )
        check_choice("data.interpolation", self.interpolation, (AUTO, *INTERPOLATIONS))
        check_choice("data.eval_crop", self.eval_crop, (AUTO, *CROP_MODES))
        check_colors(self.mean, self.std)
        if not self.label_separator:
            raise InputError("--config.data.label_separator must be a text, such as ';', got ''.")
        if self.sampling_power is None:
            raise InputError(
                f"--config.data.sampling must be {', '.join(SAMPLING)} or an exponent in 0..1, got "
                f"{self.sampling!r}."
            )
        if not is_size(self.image_size):
            raise InputError(
                f"--config.data.image_size must be pixels up to {MAX_SIDE}, a whole number or "
                f"'(height, width)', got {self.image_size!r}."
            )
        side = min(sides(self.image_size))
        usual = usual_resize(side)
        if self.eval_resize < -1:
            raise InputError(
                "config.data.eval_resize is pixels, 0 for none or -1 for what the weights want, and"
                f" 8/7 of image_size without any, but is {self.eval_resize}."
            )
        if side < _LEAST_SEEN * self.eval_resize:
            raise InputError(
                f"An evaluation would see only the middle {side} of --config.data.eval_resize="
                f"{self.eval_resize} pixels: leave it out for {usual}, or give 0 for images that "
                "need no resize."
            )
        if 0 < self.eval_resize < side:
            raise InputError(
                f"--config.data.eval_resize={self.eval_resize} is less than image_size "
                f"{self.image_size}, so that evaluation would see images in a black frame: leave "
                f"it out for {usual}, or give {side} or more."
            )

    @property
    def sampling_power(self) -> float | None:
        """Exponent of a class's images in how often it is drawn; None: the option is wrong."""
        if isinstance(self.sampling, str):
            return SAMPLING.get(self.sampling)
        number = type(self.sampling) in (int, float) and 0 <= self.sampling <= 1
        return float(self.sampling) if number else None


def check_colors(mean: Any, std: Any) -> None:
    """Checks mean and deviation of the pixels.

    Args:
      mean: Mean of red, green and blue, of values in 0..1; empty: open.
      std: Standard deviation of each, likewise.

    Raises:
      InputError: if they are anything else.
    """
    for name, values in (("mean", mean), ("std", std)):
        numbers = all(type(x) in (int, float) for x in values)
        if values and not (len(values) == 3 and numbers and all(0 <= x <= 1 for x in values)):
            raise InputError(
                f"--config.data.{name} is three numbers in 0..1, of red, green and blue, or '()'"
                f" for what the weights want, got {values!r}."
            )
    if bool(mean) != bool(std) or not all(std):
        raise InputError(
            "--config.data.mean and --config.data.std go together, and no deviation is 0, got "
            f"{mean!r} and {std!r}."
        )


def usual_resize(side: int) -> int:
    """Returns the pixels that torchvision's recipes resize to, before a crop of `side` pixels."""
    return round(side * 256 / 224)
