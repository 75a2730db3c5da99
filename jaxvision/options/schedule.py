"""config.schedule and config.find_lr: the learning rate of each update."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxvision.errors import InputError, check_choice
from jaxvision.options.checks import check_ranges
from jaxvision.options.length import LENGTH_UNITS

# Those that run from the end of the warmup to the cooldown and arrive at `end_learning_rate`.
ARRIVING = ("warmup_cosine", "cosine_restarts", "linear", "polynomial")
SCHEDULES = (*ARRIVING, "one_cycle", "exponential", "step", "multi_step", "plateau", "constant")
WARMUP_CONVENTIONS = ("torch", "optax")
CURVES = ("cosine", "linear")
MODES = ("auto", "min", "max")
THRESHOLD_MODES = ("rel", "abs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """The options of config.schedule; configs/common.py has their units and meanings."""

    name: str = "warmup_cosine"
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    warmup_examples: int = 0
    warmup_percent: float = 0.0
    warmup_convention: str = "torch"
    warmup_factor: float = 0.0
    cooldown_steps: int = 0
    cooldown_epochs: float = 0.0
    cooldown_examples: int = 0
    cooldown_percent: float = 0.0
    end_learning_rate: float = 0.0
    step_steps: int = 0
    step_epochs: float = 0.0
    step_examples: int = 0
    step_percent: float = 0.0
    step_factor: float = 0.1
    milestone_steps: tuple = ()
    milestone_epochs: tuple = ()
    milestone_examples: tuple = ()
    milestone_percent: tuple = ()
    power: float = 1.0
    restart_steps: int = 0
    restart_epochs: float = 0.0
    restart_examples: int = 0
    restart_percent: float = 0.0
    restart_factor: int = 1
    one_cycle_rise: float = 0.3
    one_cycle_anneal: str = "cosine"
    one_cycle_start_factor: float = 0.04
    one_cycle_end_factor: float = 1e-4
    plateau_metric: str = "eval/loss"
    plateau_mode: str = "auto"
    plateau_factor: float = 0.1
    plateau_patience: int = 10
    plateau_threshold: float = 1e-4
    plateau_threshold_mode: str = "rel"
    plateau_cooldown: int = 0
    plateau_min_learning_rate: float = 0.0

    def __post_init__(self):
        check_choice("schedule.name", self.name, SCHEDULES)
        check_choice("schedule.warmup_convention", self.warmup_convention, WARMUP_CONVENTIONS)
        check_choice("schedule.one_cycle_anneal", self.one_cycle_anneal, CURVES)
        check_ranges(
            "schedule",
            self,
            warmup_steps=(0, 1_000_000_000),
            warmup_epochs=(0.0, 1e6),
            warmup_percent=(0.0, 100.0),
            warmup_factor=(0.0, 1.0),
            cooldown_percent=(0.0, 100.0),
            step_epochs=(0.0, 1e6),
            step_factor=(0.0, 1.0),
            power=(0.0, 100.0),
            one_cycle_rise=(0.0, 1.0),
            one_cycle_start_factor=(0.0, 1.0),
            one_cycle_end_factor=(0.0, 1.0),
            plateau_patience=(0, 1_000_000),
            plateau_threshold=(0.0, 1e9),
            plateau_cooldown=(0, 1_000_000),
            plateau_min_learning_rate=(0.0, 1e6),
        )
        if self.is_plateau:
            check_choice(
                "schedule.plateau_threshold_mode", self.plateau_threshold_mode, THRESHOLD_MODES
            )
            check_choice("schedule.plateau_mode", self.plateau_mode, MODES)
            if not 0 < self.plateau_factor < 1:
                raise InputError(
                    "--config.schedule.plateau_factor must be above 0 and below 1, got "
                    f"{self.plateau_factor}."
                )

    @property
    def has_cooldown(self) -> bool:
        """Whether the rate falls in the last updates."""
        return any(getattr(self, f"cooldown_{unit}") for unit in LENGTH_UNITS)

    @property
    def is_plateau(self) -> bool:
        """Whether evaluations lower the rate, by a factor in the optimizer's state."""
        return self.name == "plateau"

    def with_own(self, own: Mapping[str, Any]) -> "ScheduleOptions":
        """Returns these options with some replaced; a length in its new unit only.

        Args:
          own: Options of a rule's own schedule, in place of these, by name.

        Raises:
          InputError: if one is unknown or of another type.
        """
        values = dataclasses.asdict(self)
        for name, value in own.items():
            given = values.get(name)
            kind = int | float if isinstance(given, int | float) else type(given)
            if given is None or not isinstance(value, kind):
                raise InputError(
                    "The schedule of a rule of --config.optimizer.rules must be a dict of options "
                    f"of config.schedule with their values, got {name!r}: {value!r}."
                )
            length, _, unit = name.rpartition("_")
            if unit in LENGTH_UNITS:
                for other in LENGTH_UNITS:
                    values[f"{length}_{other}"] = type(values[f"{length}_{other}"])()
            values[name] = value
        return ScheduleOptions(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindLrOptions:
    """The options of config.find_lr; configs/common.py has their units and meanings."""

    start_rate: float = 1e-7
    end_rate: float = 10.0
    num_steps: int = 100
    smoothing: float = 0.98
    stop_factor: float = 4.0

    def __post_init__(self):
        check_ranges(
            "find_lr",
            self,
            num_steps=(20, 1_000_000),
            smoothing=(0.0, 0.999999),
            stop_factor=(1.0, 1e9),
        )
        if not 0 < self.start_rate < self.end_rate < math.inf:
            raise InputError(
                "--config.find_lr.start_rate must be above 0 and below --config.find_lr.end_rate, "
                f"got {self.start_rate} and {self.end_rate}."
            )
