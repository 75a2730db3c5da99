"""What a model makes of some evaluation images, gathered for a picture."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Bool, Int, Shaped, UInt8

from jaxvision.tasks.task import OpenRun


@dataclasses.dataclass(frozen=True)
class Seen:
    """Images of all processes, in the order of their source; padding is left out.

    Attributes:
      positions: Positions of the images in the source.
      outputs: Outputs of the model for the images; of corrupt ones they mean nothing.
      corrupt: Whether each image could not be decoded.
    """

    positions: Int[np.ndarray, " images"]
    outputs: Shaped[np.ndarray, "images ..."]
    corrupt: Bool[np.ndarray, " images"]
    _here: dict[int, np.ndarray]  # images by position, those of this process

    def images(self, chosen: Iterable[int]) -> UInt8[np.ndarray, "chosen height width 3"]:
        """Returns images, black where they are corrupt; every process takes part.

        Args:
          chosen: Positions in the source.
        """
        black = np.zeros_like(next(iter(self._here.values())))
        mine = np.stack([self._here.get(position, black) for position in chosen])
        everyones = multihost_utils.process_allgather(mine[None], tiled=True)
        return np.asarray(everyones).sum(axis=0, dtype=np.uint8)  # each is in one process only


def look_at(run: OpenRun, source: Any, step: Callable[[dict], jax.Array]) -> Seen:
    """Returns what a model makes of all images of a source; every process takes part.

    Args:
      run: Run of the model.
      source: Source of the images, of a few hundred at most.
      step: Function from a batch on the devices to an array with a row for each image.
    """
    here: dict[int, np.ndarray] = {}
    outputs, positions, corrupt = _gather(run, source, step, here)
    return Seen(positions, outputs, corrupt, here)


def outputs_of(
    run: OpenRun, source: Any, step: Callable[[dict], jax.Array]
) -> tuple[Shaped[np.ndarray, "images ..."], Int[np.ndarray, " images"]]:
    """Returns what a model makes of the images of a source, and their positions in it.

    Corrupt images are left out. Every process takes part, and gets all.

    Args:
      run: Run of the model.
      source: Source of the images, of any number.
      step: Function from a batch on the devices to an array with a row for each image.
    """
    outputs, positions, corrupt = _gather(run, source, step, None)
    return outputs[~corrupt], positions[~corrupt]


def _gather(
    run: OpenRun, source: Any, step: Callable[[dict], jax.Array], images: dict | None
) -> tuple[np.ndarray, ...]:
    """Returns outputs, positions and whether they are corrupt, in the order of the source."""
    columns = zip(*_rows(run, source, step, images), strict=True)
    outputs, positions, corrupt = (np.concatenate(column) for column in columns)
    order = np.argsort(positions, kind="stable")
    order = order[positions[order] >= 0]
    return outputs[order], positions[order], corrupt[order]


def _rows(
    run: OpenRun, source: Any, step: Callable[[dict], jax.Array], images: dict | None
) -> Iterator[list[np.ndarray]]:
    for batch in run.eval_batches(source):
        outputs = step(run.put(batch))
        host = (batch["index"], batch["corrupt"])
        gathered = multihost_utils.process_allgather((outputs, *host), tiled=True)
        if images is not None:
            images |= dict(zip(batch["index"].tolist(), batch["image"], strict=True))
        yield [np.asarray(array) for array in gathered]
