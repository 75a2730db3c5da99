"""config.model: which network, in which precision, starting from which weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxvision.errors import check_choice
from jaxvision.options.checks import check_ranges

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
    freeze_batch_stats: str = "frozen"
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_ranges("model", self, num_classes=(0, 100_000_000))
        check_choice("model.freeze_batch_stats", self.freeze_batch_stats, FREEZE_BATCH_STATS)
