"""config.model: which network, in which precision, starting from which weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxvision.errors import InputError, check_choice
from jaxvision.options.checks import check_ranges
from jaxvision.options.size import MAX_SIDE, is_size

FREEZE_BATCH_STATS = ("frozen", "all", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options of config.model; configs/common.py has their units and meanings."""

    name: str = "vit_s16"
    num_classes: int = 0
    dtype: str = "float32"
    init_from: str = ""
    init_part: str = ""
    encoder_from: str = ""
    adapter_from: str = ""
    init_image_size: Any = 0  # a Size, once it is checked; 0: as the weights say
    freeze_batch_stats: str = "frozen"
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_ranges("model", self, num_classes=(0, 100_000_000))
        check_choice("model.freeze_batch_stats", self.freeze_batch_stats, FREEZE_BATCH_STATS)
        if self.adapter_from and not self.init_from:
            raise InputError(
                "--config.model.adapter_from changes the weights that it was trained on: give these"
                " as --config.model.init_from."
            )
        if self.init_image_size and not is_size(self.init_image_size):
            raise InputError(
                f"--config.model.init_image_size must be pixels up to {MAX_SIDE}, a whole number "
                f"or '(height, width)', or 0, got {self.init_image_size!r}."
            )
