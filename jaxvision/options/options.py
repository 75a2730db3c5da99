"""All options of a run: the schema of configs/common.py as types, checked as they are made."""

import dataclasses
import json
import numbers
import re
from collections.abc import ItemsView, KeysView, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxvision.errors import InputError, shorten
from jaxvision.options.adapter import KINDS as ADAPTER_KINDS
from jaxvision.options.adapter import AdapterOptions
from jaxvision.options.augment import AugmentOptions
from jaxvision.options.averaging import SwaOptions
from jaxvision.options.caption import CaptionOptions
from jaxvision.options.checks import check_ranges
from jaxvision.options.data import DataOptions
from jaxvision.options.length import RunLength
from jaxvision.options.loss import MULTI_LABEL_LOSSES, DistillOptions, LossOptions
from jaxvision.options.moco import PRESET, TASK, MocoOptions
from jaxvision.options.model import ModelOptions
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.options.run import (
    CheckpointOptions,
    EarlyStoppingOptions,
    EvalOptions,
    LogOptions,
    MeshOptions,
)
from jaxvision.options.schedule import FindLrOptions, ScheduleOptions
from jaxvision.options.size import sides


@runtime_checkable
class Group(Protocol):
    """Values by name, in a ConfigDict or in what config.json holds: a model needs no ConfigDict."""

    def keys(self) -> KeysView[str]:
        """Returns the names."""
        ...

    def items(self) -> ItemsView[str, Any]:
        """Returns the names with their values."""
        ...

    def __getitem__(self, name: str, /) -> Any: ...

    def __contains__(self, name: object, /) -> bool: ...


_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    str: ((str,), "a text"),
    tuple: ((tuple, list), "a tuple"),
    Mapping[str, Any]: ((Group,), "a group of options"),
}
_REMOVED = {"config.log.tensorboard"}  # options of older versions, which their runs have kept
_MESH_AXES = frozenset({"data", "fsdp", None})


def _default(group: type) -> Any:
    return dataclasses.field(default_factory=group)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run; configs/common.py has their units and meanings.

    Raises:
      InputError: for a value that cannot work, alone or beside another, with what to type.
    """

    seed: int = 0
    task: str = "classification"
    model: ModelOptions = _default(ModelOptions)
    data: DataOptions = _default(DataOptions)
    caption: CaptionOptions = _default(CaptionOptions)
    moco: MocoOptions = _default(MocoOptions)
    augment: AugmentOptions = _default(AugmentOptions)
    batch_size: int = 256
    eval_batch_size: int = 256
    total_steps: int = 0
    total_epochs: float = 0.0
    accumulate_steps: int = 1
    loss: LossOptions = _default(LossOptions)
    distill: DistillOptions = _default(DistillOptions)
    optimizer: OptimizerOptions = _default(OptimizerOptions)
    adapter: AdapterOptions = _default(AdapterOptions)
    schedule: ScheduleOptions = _default(ScheduleOptions)
    early_stopping: EarlyStoppingOptions = _default(EarlyStoppingOptions)
    find_lr: FindLrOptions = _default(FindLrOptions)
    swa: SwaOptions = _default(SwaOptions)
    ema_decay: float = 0.0
    ema_warmup: bool = True
    max_skipped_steps: int = 10
    resume_changed: bool = False
    deterministic: bool = False
    mesh: MeshOptions = _default(MeshOptions)
    sharding_rules: tuple = ()
    checkpoint: CheckpointOptions = _default(CheckpointOptions)
    eval: EvalOptions = _default(EvalOptions)
    log: LogOptions = _default(LogOptions)
    compilation_cache: str = "~/.cache/jaxvision"

    def __post_init__(self):
        check_ranges(
            "",
            self,
            seed=(0, 2**32 - 1),
            total_steps=(0, 1_000_000_000),
            total_epochs=(0.0, 1e6),
            ema_decay=(0.0, 0.999999),
            accumulate_steps=(1, 1_000_000),
            max_skipped_steps=(1, 1_000_000),
        )
        self._check_sharding_rules()
        self._check_evaluation()
        self._check_stored_size()
        self._check_loss()
        self._check_views()
        self._check_adapter()
        if self.loss.logit_adjustment and self.data.sampling_power != 1.0:
            raise InputError(
                "--config.loss.logit_adjustment is for images that come as often as the data has "
                "them: set it to 0, or --config.data.sampling to uniform."
            )
        self._check_schedule_free()
        if self.ema_decay and self.swa.is_on:
            raise InputError(
                "A run keeps one average: leave --config.ema_decay or --config.swa.start_* out."
            )

    def length(self, num_examples: int) -> RunLength:
        """Returns how long the run is, given as `total_steps` or as `total_epochs`.

        Args:
          num_examples: Number of examples of the training split.

        Raises:
          InputError: unless exactly one of the two is given.
        """
        if (self.total_steps > 0) == (self.total_epochs > 0):
            raise InputError(
                "Give exactly one of --config.total_steps and --config.total_epochs, got "
                f"{self.total_steps} steps and {self.total_epochs} epochs."
            )
        steps = round(self.total_epochs * num_examples / self.batch_size)
        return RunLength(
            total_steps=self.total_steps or max(1, steps),
            num_examples=num_examples,
            batch_size=self.batch_size,
        )

    def check_metrics(self, metrics: tuple[str, ...]) -> None:
        """Checks the metrics that decide something by the names that an evaluation has.

        Args:
          metrics: Names that the task's evaluations give, without prefix.

        Raises:
          InputError: naming the option, what it may be and what it is.
        """
        kept = {
            "eval_ema": self.ema_decay > 0,
            "eval_swa": self.swa.is_on,
            "eval_schedule_free": self.optimizer.is_schedule_free,
        }
        averages = [name for name, is_kept in kept.items() if is_kept]
        names = [f"{weights}/{metric}" for weights in ["eval", *averages] for metric in metrics]
        chosen = {"checkpoint.best_metric": self.checkpoint.best_metric}
        if self.schedule.is_plateau:
            chosen["schedule.plateau_metric"] = self.schedule.plateau_metric
        if self.early_stopping.patience:
            chosen["early_stopping.metric"] = self.early_stopping.metric
        for option, name in chosen.items():
            if name not in names:
                raise InputError(
                    f"--config.{option} must be one of {', '.join(names)} (eval_ema needs "
                    f"--config.ema_decay above 0, eval_swa --config.swa.start_*), got '{name}'."
                )

    def _check_evaluation(self) -> None:
        evaluation, data = self.eval, self.data
        if evaluation.class_folders == "indices" and data.name != "folder":
            raise InputError(
                "--config.eval.class_folders=indices is for --config.data.name=folder, got "
                f"'{data.name}': set it to names."
            )
        side = min(sides(data.image_size))
        if evaluation.tta in ("five_crop", "ten_crop") and 0 < data.eval_resize <= side:
            raise InputError(
                f"--config.eval.tta={evaluation.tta} cuts crops of {side} pixels out of images "
                f"whose short side has --config.data.eval_resize={data.eval_resize}: give more, "
                f"e.g. {round(side * 256 / 224)}."
            )
        if not evaluation.during_run:
            for option, needs in (
                ("--config.schedule.name=plateau", self.schedule.is_plateau),
                ("--config.early_stopping.patience", self.early_stopping.patience),
            ):
                if needs:
                    raise InputError(
                        f"{option} needs evaluations during the run; set "
                        "--config.eval.every_epochs."
                    )

    def _check_schedule_free(self) -> None:
        name, schedule = self.optimizer.name, self.schedule
        if not self.optimizer.is_schedule_free:
            return
        if schedule.name != "constant" or schedule.has_cooldown:
            raise InputError(
                f"--config.optimizer.name={name} needs a rate that stays, after its warmup: set "
                "--config.schedule.name=constant, without a cooldown."
            )
        if self.ema_decay or self.swa.is_on:
            raise InputError(
                f"--config.optimizer.name={name} averages the weights itself: leave "
                "--config.ema_decay and --config.swa.start_* out."
            )
        if self.optimizer.unfreeze:
            raise InputError(
                f"--config.optimizer.name={name} averages all weights from the first update on: "
                "leave --config.optimizer.unfreeze out."
            )

    def _check_loss(self) -> None:
        several, loss = self.task == "multi_label", self.loss
        if several and loss.name not in MULTI_LABEL_LOSSES:
            raise InputError(
                "With --config.task=multi_label, --config.loss.name must be one of "
                f"{', '.join(MULTI_LABEL_LOSSES)}, got '{loss.name}'."
            )
        if not several and loss.name == "asymmetric":
            raise InputError(
                "--config.loss.name=asymmetric is for --config.task=multi_label, got "
                f"'{self.task}': choose another loss."
            )

    def _check_adapter(self) -> None:
        preset = self.optimizer.preset
        if self.adapter != AdapterOptions() and preset not in ADAPTER_KINDS:
            raise InputError(
                "--config.adapter is for --config.optimizer.preset="
                f"{' or '.join(ADAPTER_KINDS)}, got '{preset}': set that, or leave it out."
            )

    def _check_views(self) -> None:
        """Checks that two views of each image are made where they are contrasted, and only there.

        What a task from elsewhere makes of them is its own affair.
        """
        two = self.augment.preset == PRESET
        if two == (self.task == TASK) or ":" in self.task:
            return
        if two:
            raise InputError(
                f"--config.augment.preset={PRESET} makes two views of each image, which "
                f"--config.task={TASK} contrasts, got '{self.task}': choose another preset."
            )
        raise InputError(
            f"--config.task={TASK} contrasts two views of each image: set "
            f"--config.augment.preset={PRESET}, got '{self.augment.preset}'."
        )

    def _check_stored_size(self) -> None:
        stored, side = self.augment.stored_size, max(sides(self.data.image_size))
        if not stored:
            return
        if stored < side:
            raise InputError(
                f"--config.augment.stored_size must be at least the {side} pixels of "
                f"--config.data.image_size, which are cut from it, got {stored}."
            )
        if self.data.image_size_schedule:
            raise InputError(
                "--config.augment.stored_size has images of one size cut from it: set it to 0, or "
                "--config.data.image_size_schedule to ()."
            )

    def _check_sharding_rules(self) -> None:
        """Checks the form of the rules; whether they fit an array is seen when it is placed."""
        for rule in self.sharding_rules:
            try:
                pattern, axes = rule
                re.compile(pattern)
                known = isinstance(axes, tuple) and _MESH_AXES >= set(axes)
            except (TypeError, ValueError, re.error):
                known = False
            if not known:
                raise InputError(
                    "Each of --config.sharding_rules must be (regex of a parameter path, (axis or "
                    "None of each dimension, ...)) with the axes 'data' and 'fsdp', got "
                    f"{rule!r}."
                )


def read_options(config: Group) -> Options:
    """Returns the options of a config: the only place that looks into one.

    Args:
      config: Config of configs/common.py, or what a run's config.json holds; what it leaves out has
        its default.

    Raises:
      InputError: for an unknown name, or a value that cannot work.
    """
    check_types(config)
    return _read(Options, config, "config")


def as_json(options: Options) -> dict[str, Any]:
    """Returns what config.json holds: the options as JSON has them, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(options)))


def check_types(values: Group, group: type = Options, place: str = "config") -> None:
    """Checks that values have the types of the schema; names that it does not have are left alone.

    Args:
      values: Config of configs/common.py, or what a run's config.json holds, or a group of either.
      group: Dataclass of the group.
      place: Name of the group in the config.

    Raises:
      InputError: for a value of another type.
    """
    for field in dataclasses.fields(group):
        name, inner = f"{place}.{field.name}", field.default_factory
        kind = Mapping[str, Any] if dataclasses.is_dataclass(inner) else field.type
        if field.name not in values or kind not in _TYPES:
            continue
        value, (types, wanted) = values[field.name], _TYPES[kind]
        if not isinstance(value, types) or (kind in (int, float) and isinstance(value, bool)):
            raise InputError(f"--{name} must be {wanted}, got {shorten(repr(value))}.")
        if dataclasses.is_dataclass(inner):
            check_types(value, inner, name)  # pyright: ignore - a class


def _read(group: type, values: Group, place: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(group)}
    values = {k: v for k, v in values.items() if f"{place}.{k}" not in _REMOVED}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"There is no option --{place}.{unknown[0]}: see configs/common.py.")
    read = {}
    for name, value in values.items():
        kind = fields[name].default_factory
        if dataclasses.is_dataclass(kind):
            read[name] = _read(kind, value, f"{place}.{name}")  # pyright: ignore - a class
        else:
            read[name] = _plain(value)
    return group(**read)


def _plain(value: Any) -> Any:
    """Returns a value with plain dicts and tuples inside; JSON knows lists only."""
    if isinstance(value, Group):
        return {name: _plain(inner) for name, inner in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
