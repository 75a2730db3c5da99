"""config.mesh, .checkpoint, .eval, .early_stopping and .log: what happens beside the updates."""

import dataclasses
import importlib.util

from jaxvision.errors import InputError, check_choice
from jaxvision.options.checks import check_ranges
from jaxvision.options.length import LENGTH_UNITS
from jaxvision.options.schedule import MODES

VIEWS = ("none", "flip", "flip_shift", "five_crop", "ten_crop")
CLASS_FOLDERS = ("names", "indices")  # what the name of a class folder says
FEATURES = ("knn", "probe")
TRACKERS = {  # and what each needs
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
_MOST_STEPS = 1_000_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """The options of config.mesh; configs/common.py has their units and meanings."""

    data: int = -1
    fsdp: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The options of config.checkpoint; configs/common.py has their units and meanings."""

    every_steps: int = 1_000
    every_epochs: float = 0.0
    every_examples: int = 0
    every_percent: float = 0.0
    keep: int = 2
    best_metric: str = "eval/accuracy"

    def __post_init__(self):
        check_ranges("checkpoint", self, every_steps=(0, _MOST_STEPS), keep=(1, 1_000_000))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The options of config.eval; configs/common.py has their units and meanings."""

    every_steps: int = 1_000
    every_epochs: float = 0.0
    every_examples: int = 0
    every_percent: float = 0.0
    batch_norm_batches: int = 0
    class_folders: str = "names"
    features: tuple = ()
    tta: str = "none"
    ensemble: tuple = ()
    real_labels: str = ""

    def __post_init__(self):
        check_ranges("eval", self, every_steps=(0, _MOST_STEPS), batch_norm_batches=(0, 1_000_000))
        check_choice("--config.eval.tta", self.tta, VIEWS)
        check_choice("--config.eval.class_folders", self.class_folders, CLASS_FOLDERS)
        if not set(self.features) <= set(FEATURES):
            raise InputError(
                f"--config.eval.features must be some of {', '.join(FEATURES)}, such as "
                f"\"('knn','probe')\", got {self.features!r}."
            )
        if not all(isinstance(path, str) and path for path in self.ensemble):
            raise InputError(
                "--config.eval.ensemble must be paths, \"('runs/a','weights.safetensors')\", got "
                f"{self.ensemble!r}."
            )

    @property
    def during_run(self) -> bool:
        """Whether a run is evaluated before its end."""
        return any(getattr(self, f"every_{unit}") for unit in LENGTH_UNITS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStoppingOptions:
    """The options of config.early_stopping; configs/common.py has their units and meanings."""

    patience: int = 0
    metric: str = "eval/loss"
    mode: str = "auto"
    min_delta: float = 0.0

    def __post_init__(self):
        check_ranges("early_stopping", self, patience=(0, 1_000_000), min_delta=(0.0, 1e9))
        if self.patience:
            check_choice("early_stopping.mode", self.mode, MODES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogOptions:
    """The options of config.log; configs/common.py has their units and meanings."""

    every_steps: int = 50
    every_epochs: float = 0.0
    every_examples: int = 0
    every_percent: float = 0.0
    to: tuple = ("tensorboard",)
    report: bool = True

    def __post_init__(self):
        check_ranges("log", self, every_steps=(0, _MOST_STEPS))
        if not set(self.to) <= set(TRACKERS) or len(set(self.to)) < len(self.to):
            raise InputError(
                f"--config.log.to must be some of {', '.join(TRACKERS)}, each once, such as "
                f"\"('tensorboard','wandb')\", got {self.to!r}."
            )

    def check_installed(self) -> None:
        """Checks that the packages of the trackers are there, without importing them.

        Raises:
          InputError: if one is not installed.
        """
        for tracker in self.to:
            for module in TRACKERS[tracker]:
                if importlib.util.find_spec(module) is None:
                    raise InputError(
                        f"--config.log.to={tracker} needs {module}, which is not installed: "
                        f"pip install 'jaxvision-nnx[{tracker}]', or leave it out."
                    )
