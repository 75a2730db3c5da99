"""What a file of weights has to say, and what became of it."""

import dataclasses
from typing import Any

from jaxvision.interop.rules import Weights
from jaxvision.options.size import Size


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file or a run has to say of its weights.

    Attributes:
      weights: Arrays by name.
      wrapper: Place of the weights in it, see `LoadReport`.
      source: Library whose names the weights have; None: told by the names.
      config: Content of the `config.json` beside the weights, of timm or transformers; None: there
        is none.
      preprocessor: Content of the `preprocessor_config.json` beside the weights, likewise.
      image_size: Size of the images that the weights belong to, in pixels; None: nobody tells.
      left_out: Names beside the weights, of other modules.
    """

    weights: Weights
    wrapper: str | None = None
    source: str | None = None
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    image_size: Size | None = None
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of a file.

    Attributes:
      source: Library whose names the file has; for a ResNet, timm's are torchvision's.
      loaded: Names in the file that the model now holds, adapted ones among them.
      adapted: What was done to make an array fit, or why the model kept its own, by our path.
      left_out: Names in the file that were not used, each for a reason in `adapted`, or because the
        model has no head, or because they belong to another module beside the model.
      wrapper: Place of the weights in a training checkpoint, e.g. "model_ema" or
        "teacher.backbone"; of a run, which weights they are and of which step; None: at the file's
        top.
      notes: Choices of the model that this library usually makes otherwise, which the file does not
        tell.
    """

    source: str
    loaded: tuple[str, ...]
    adapted: dict[str, str]
    left_out: tuple[str, ...]
    wrapper: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f" from {self.wrapper!r}" if self.wrapper else ""
        lines = [f"loaded {len(self.loaded)} arrays named as in {self.source}{place}"]
        lines += self.notes
        lines += [f"adapted {path}: {text}" for path, text in self.adapted.items()]
        lines += [f"left out {name}" for name in self.left_out]
        return "\n".join(lines)


def whole_report(report: LoadReport, file: WeightFile) -> LoadReport:
    """Returns what became of a file, where the report knows its weights only."""
    left_out = (*report.left_out, *file.left_out)
    return dataclasses.replace(report, wrapper=file.wrapper, left_out=left_out)
