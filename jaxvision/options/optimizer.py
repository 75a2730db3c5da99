"""config.optimizer: the update rule, and what it does to which parameters."""

import dataclasses

from jaxvision.errors import InputError, check_choice
from jaxvision.options.adapter import KINDS as ADAPTER_KINDS
from jaxvision.options.checks import check_ranges

OPTIMIZERS = (
    *("adamw", "adam", "sgd", "rmsprop", "rmsprop_tf", "lamb", "lion", "muon", "nadamw", "adan"),
    *("adopt", "lars", "prodigy", "schedule_free_adamw", "schedule_free_sgd"),
)
PRESETS = (
    *("head", "late", "half", "most", "full_low_lr", "full"),
    *("lp_ft", "bitfit", *ADAPTER_KINDS),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The options of config.optimizer; configs/common.py has their units and meanings."""

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    b1: float = 0.9
    b2: float = 0.999
    adan_betas: tuple = (0.98, 0.92, 0.99)
    eps: float = 1e-8
    sam_rho: float = 0.0
    sam_adaptive: bool = False
    clip_norm: float = 0.0
    clip_factor: float = 0.0
    rules: tuple = ()
    preset: str = "full"
    unfreeze: tuple = ()
    layer_decay: float = 1.0
    part_multipliers: tuple = ()
    head_multiplier: float = 1.0

    def __post_init__(self):
        check_choice("optimizer.name", self.name, OPTIMIZERS)
        check_choice("optimizer.preset", self.preset, PRESETS)
        check_ranges(
            "optimizer",
            self,
            learning_rate=(0.0, 1e6),
            weight_decay=(0.0, 1e6),
            eps=(0.0, 1.0),
            sam_rho=(0.0, 1e6),
            clip_norm=(0.0, 1e9),
            clip_factor=(0.0, 1e6),
            layer_decay=(1e-6, 1.0),
            head_multiplier=(0.0, 1e6),
        )
        for name in ("momentum", "b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer.{name} must be in [0, 1), got {getattr(self, name)}.")
        betas = self.adan_betas
        if len(betas) != 3 or not all(isinstance(b, float) and 0 <= b < 1 for b in betas):
            raise InputError(f"optimizer.adan_betas must be three numbers in [0, 1), got {betas}.")
        if self.is_schedule_free and not self.averaged_share:
            name = "momentum" if self.name == "schedule_free_sgd" else "b1"
            raise InputError(
                f"optimizer.{name} must be above 0 for {self.name}: it is the share of the average "
                "in the weights that gradients are taken at."
            )

    @property
    def is_schedule_free(self) -> bool:
        """Whether the rule averages its weights instead of lowering the rate."""
        return self.name.startswith("schedule_free")

    @property
    def averaged_share(self) -> float:
        """Share of the average in the weights that gradients are taken at, if schedule-free."""
        return self.momentum if self.name == "schedule_free_sgd" else self.b1
