"""config.swa: stochastic averaging of the weights."""

import dataclasses

from jaxvision.errors import check_choice
from jaxvision.options.checks import check_ranges
from jaxvision.options.length import LENGTH_UNITS
from jaxvision.options.schedule import CURVES


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwaOptions:
    """The options of config.swa; configs/common.py has their units and meanings."""

    start_steps: int = 0
    start_epochs: float = 0.0
    start_examples: int = 0
    start_percent: float = 0.0
    every_steps: int = 0
    every_epochs: float = 0.0
    every_examples: int = 0
    every_percent: float = 0.0
    learning_rate: float = 0.0
    anneal_steps: int = 0
    anneal_epochs: float = 0.0
    anneal_examples: int = 0
    anneal_percent: float = 0.0
    curve: str = "cosine"
    batch_norm_batches: int = 50

    def __post_init__(self):
        check_ranges("swa", self, learning_rate=(0.0, 1e6), batch_norm_batches=(0, 1_000_000))
        check_choice("swa.curve", self.curve, CURVES)

    @property
    def is_on(self) -> bool:
        """Whether the weights are averaged in this way."""
        return any(getattr(self, f"start_{unit}") for unit in LENGTH_UNITS)
