"""What the evaluations of a run decide: a lower rate on a plateau, and an early end.

All of it is arithmetic of the host, which has waited for the evaluation anyway. Every process
computes it from the same metrics. It is saved with each checkpoint, so that a run that was killed
decides as one that was not.
"""

import dataclasses
import logging
import math
from typing import Any

from jaxvision.options.options import Options

logger = logging.getLogger(__name__)

_LEAST_CHANGE = 1e-8  # of a rate that is worth a change; torch's eps


def higher_is_better(metric: str) -> bool:
    """Returns whether more of a metric is better: not of those that are called a loss."""
    return not metric.endswith("loss")


def improves(
    value: float,
    best: float | None,
    *,
    maximize: bool,
    threshold: float = 0.0,
    relative: bool = False,
) -> bool:
    """Returns whether a metric is better than the best by more than a threshold; NaN never is.

    Args:
      value: Metric of this evaluation.
      best: Best metric so far; None: there was none.
      maximize: Whether more is better.
      threshold: Difference to the best that an improvement must exceed.
      relative: Whether the threshold is a share of the best, as `threshold_mode="rel"` of torch's
        ReduceLROnPlateau.
    """
    if best is None:
        best = -math.inf if maximize else math.inf
    sign = 1.0 if maximize else -1.0
    bar = best * (1.0 + sign * threshold) if relative else best + sign * threshold
    return value > bar if maximize else value < bar


@dataclasses.dataclass
class ReduceOnPlateau:
    """Lowers the learning rate when a metric no longer improves, as torch's ReduceLROnPlateau.

    A step is one evaluation. The arithmetic is torch's, with its `eps` of 1e-8, for one group of
    the peak's rate.

    Attributes:
      metric: Name of the evaluation's metric.
      maximize: Whether more is better.
      learning_rate: Peak of the schedule, whose values are multiplied by `rate / learning_rate`.
      factor: Factor that one reduction multiplies the rate by.
      patience: Number of evaluations without improvement that are waited for; one more lowers the
        rate.
      threshold: Threshold below which improvements count for nothing.
      threshold_mode: Meaning of the threshold, "rel" or "abs": a share of the best, or in units of
        the metric.
      cooldown: Number of evaluations after a reduction in which nothing is counted.
      min_learning_rate: Peak below which the rate is not reduced.
      best: Best metric so far; None before the first.
      bad: Number of evaluations since the best, or since the last reduction.
      cooling: Number of evaluations of the cooldown that are left.
      rate: Peak of the schedule after the reductions.
    """

    metric: str
    maximize: bool
    learning_rate: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_learning_rate: float = 0.0
    best: float | None = None
    bad: int = 0
    cooling: int = 0
    rate: float = dataclasses.field(default=math.nan)

    def __post_init__(self) -> None:
        if math.isnan(self.rate):
            self.rate = float(self.learning_rate)

    @property
    def rate_factor(self) -> float:
        """What the schedule is multiplied by."""
        return self.rate / self.learning_rate if self.learning_rate else 1.0

    def update(self, value: float) -> bool:
        """Notes the metric of an evaluation; returns whether it lowered the rate."""
        if improves(
            value,
            self.best,
            maximize=self.maximize,
            threshold=self.threshold,
            relative=self.threshold_mode == "rel",
        ):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad <= self.patience:
            return False
        self.cooling, self.bad = self.cooldown, 0
        rate = max(self.rate * self.factor, self.min_learning_rate)
        if self.rate - rate <= _LEAST_CHANGE:
            return False
        self.rate = rate
        return True


@dataclasses.dataclass
class EarlyStopping:
    """Ends a run when a metric no longer improves.

    Attributes:
      metric: Name of the evaluation's metric.
      maximize: Whether more is better.
      patience: Number of evaluations without improvement after which the run ends.
      min_delta: Difference below which improvements count for nothing, in units of the metric.
      best: Best metric so far; None before the first.
      best_step: Number of updates done when the best was reached.
      bad: Number of evaluations since the best.
    """

    metric: str
    maximize: bool
    patience: int
    min_delta: float = 0.0
    best: float | None = None
    best_step: int = 0
    bad: int = 0

    def update(self, step: int, value: float) -> None:
        """Notes the metric of the evaluation after `step` updates."""
        if improves(value, self.best, maximize=self.maximize, threshold=self.min_delta):
            self.best, self.best_step, self.bad = value, step, 0
        else:
            self.bad += 1

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.bad >= self.patience


# What changes, and is saved; the rest is the config's.
_SAVED = {
    ReduceOnPlateau: ("best", "bad", "cooling", "rate"),
    EarlyStopping: ("best", "best_step", "bad"),
}


@dataclasses.dataclass
class Progress:
    """Both of them, each of which a run may be without."""

    plateau: ReduceOnPlateau | None = None
    stopping: EarlyStopping | None = None

    @property
    def rate_factor(self) -> float:
        """What the schedule is multiplied by from here on."""
        return 1.0 if self.plateau is None else self.plateau.rate_factor

    @property
    def ended(self) -> bool:
        """Whether the run is over before its last step."""
        return self.stopping is not None and self.stopping.ended

    def update(self, step: int, results: dict[str, float]) -> bool:
        """Notes an evaluation after `step` updates; returns whether it lowered the rate.

        Args:
          step: Number of updates done.
          results: Metrics by name, the same in every process.
        """
        if self.stopping is not None:
            self.stopping.update(step, results[self.stopping.metric])
        plateau = self.plateau
        if plateau is None or not plateau.update(results[plateau.metric]):
            return False
        logger.info(
            "Step %d: %s has not improved on %.6g for more than %d evaluations; the peak's rate is "
            "%.4g from here on.",
            step,
            plateau.metric,
            math.nan if plateau.best is None else plateau.best,
            plateau.patience,
            plateau.rate,
        )
        return True

    def explain_end(self) -> str:
        """Returns why a run that ended early did so."""
        stopping = self.stopping
        assert stopping is not None  # or nothing would have ended
        best = "no finite value" if stopping.best is None else f"{stopping.best:.6g}"
        return (
            f"stopped early: the best {stopping.metric}, {best}, is that of step "
            f"{stopping.best_step}, {stopping.bad} evaluations ago"
        )

    def saved(self) -> dict[str, dict[str, Any]]:
        """Returns what a checkpoint must hold, as JSON; empty if there is nothing."""
        return {
            name: {field: getattr(part, field) for field in _SAVED[type(part)]}
            for name, part in (("plateau", self.plateau), ("stopping", self.stopping))
            if part is not None
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Resumes from what a checkpoint holds; what is not there begins anew."""
        for name, part in (("plateau", self.plateau), ("stopping", self.stopping)):
            for field, value in saved.get(name, {}).items() if part is not None else ():
                setattr(part, field, value)


def progress_of(options: Options) -> Progress:
    """Returns what a run's options ask for, before the first evaluation."""
    progress = Progress()
    rate, stop = options.schedule, options.early_stopping
    if rate.is_plateau:
        progress.plateau = ReduceOnPlateau(
            rate.plateau_metric,
            _maximize(rate.plateau_mode, rate.plateau_metric),
            options.optimizer.learning_rate,
            factor=rate.plateau_factor,
            patience=rate.plateau_patience,
            threshold=rate.plateau_threshold,
            threshold_mode=rate.plateau_threshold_mode,
            cooldown=rate.plateau_cooldown,
            min_learning_rate=rate.plateau_min_learning_rate,
        )
    if stop.patience:
        progress.stopping = EarlyStopping(
            stop.metric,
            _maximize(stop.mode, stop.metric),
            stop.patience,
            min_delta=stop.min_delta,
        )
    return progress


def _maximize(mode: str, metric: str) -> bool:
    return higher_is_better(metric) if mode == "auto" else mode == "max"
