"""config.adapter: what is learnt beside layers that stay as they are."""

import dataclasses
import math
import re

from jaxvision.errors import InputError
from jaxvision.options.checks import check_ranges

KINDS = ("lora", "ia3")  # presets that add adapters to the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """The options of config.adapter; configs/common.py has their units and meanings."""

    targets: str = ""
    rank: int = 8
    alpha: float = 8.0
    rank_stabilized: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        check_ranges("adapter", self, rank=(1, 65_536), alpha=(0.0, 1e6), dropout=(0.0, 0.99))
        try:
            re.compile(self.targets)
        except re.error as error:
            raise InputError(
                f"--config.adapter.targets must be a regex of parameter paths, got "
                f"{self.targets!r}: {error}."
            ) from error

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices of a LoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)
