"""config.moco: how views of images are contrasted by the task momentum_contrast."""

import dataclasses

from jaxvision.errors import check_choice
from jaxvision.options.checks import check_ranges

TASK = "momentum_contrast"
PRESET = "moco_v3"  # of config.augment: two views of each image
SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MocoOptions:
    """The options of config.moco; configs/common.py has their units and meanings."""

    temperature: float = 0.2
    momentum: float = 0.99
    momentum_schedule: str = "cosine"
    projector_layers: int = 3
    hidden_width: int = 4_096
    output_width: int = 256
    predictor_norm: bool = True
    freeze_patches: bool = True

    def __post_init__(self):
        check_ranges(
            "moco",
            self,
            temperature=(1e-3, 100.0),
            momentum=(0.0, 1.0),
            projector_layers=(1, 10),
            hidden_width=(1, 1_000_000),
            output_width=(1, 1_000_000),
        )
        check_choice("--config.moco.momentum_schedule", self.momentum_schedule, SCHEDULES)
