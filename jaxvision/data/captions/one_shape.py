"""Captions of the `shapes` images themselves: one object, what it is, where, and before what."""

from collections.abc import Iterator

import numpy as np

from jaxvision.data.captions.caption_source import CaptionExample, CaptionSource
from jaxvision.data.source import DataError
from jaxvision.data.sources.shape_scene import Scene, article, background_text, place_text
from jaxvision.data.sources.shapes import ShapesSource

_MOST = 10_000  # images of the test split: there are 40,000 captions


class OneShapeSource(CaptionSource):
    """The images of ShapesSource, with captions from "a circle" to all that can be said.

    A training image has five captions. One of the test split has the fullest alone, which no other
    image of the split has: each is exactly one answer to a search.

    Args:
      split: Name of the split: train | test.
      num_train: Number of images of the train split.
      num_eval: Number of images of the test split.
      difficulty: Difficulty of the images: easy | medium | hard.
      image_size: Size of the images in pixels, one side or (height, width).

    Raises:
      DataError: for another difficulty or split, a size below 8 pixels, or more images than there
        are captions.
    """

    def __init__(
        self,
        split: str,
        *,
        num_train: int = 50_000,
        num_eval: int = 2_000,
        difficulty: str = "medium",
        image_size: int | tuple[int, int] = 224,
    ):
        self._whole = split == "train"
        self._images = ShapesSource(
            split,
            num_train=num_train,
            num_eval=100 * _MOST,
            difficulty=difficulty,
            image_size=image_size,
        )
        self._chosen = None if self._whole else self._distinct(num_eval)

    def _distinct(self, count: int) -> np.ndarray:
        """Returns the first images whose fullest captions differ."""
        if count > _MOST:
            raise DataError(
                f"one_shape has at most {_MOST:,} test images, whose captions differ: lower "
                f"--config.data.shapes.num_eval from {count:,}."
            )
        seen, chosen = set(), []
        for index in range(len(self._images)):
            caption = describe_fully(self._images.scene(index))
            if caption not in seen:
                seen.add(caption)
                chosen.append(index)
            if len(chosen) == count:
                break
        return np.array(chosen, np.int64)

    def __len__(self) -> int:
        return len(self._images) if self._chosen is None else len(self._chosen)

    def _index(self, index: int) -> int:
        return index if self._chosen is None else int(self._chosen[index])

    def __getitem__(self, index: int) -> CaptionExample:
        image = np.asarray(self._images[self._index(index)]["image"])
        return {"image": image, "captions": self.captions(index), "image_id": index}

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns true captions of the image, the fullest first."""
        scene = self._images.scene(self._index(index))
        captions = describe_one(scene)
        return captions if self._whole else captions[:1]

    def image_id(self, index: int) -> int:
        """Returns the index."""
        return index

    def describe(self, index: int) -> str:
        """Returns the split and the index."""
        return self._images.describe(self._index(index))

    def all_captions(self) -> Iterator[str]:
        """Yields the captions of enough images to have every word."""
        for index in range(min(len(self), 2_000)):
            yield from self.captions(index)


def describe_fully(scene: Scene) -> str:
    """Returns all that can be said of a scene of one object."""
    item, background = scene.objects[0], background_text(scene)
    named = f"{item.size} {item.color} {item.shape}"
    return f"{article(named)} {named} {place_text(item)} on {article(background)} {background}"


def describe_one(scene: Scene) -> tuple[str, ...]:
    """Returns true captions of a scene of one object, the fullest first."""
    item, background = scene.objects[0], background_text(scene)
    named = f"{item.color} {item.shape}"
    return (
        describe_fully(scene),
        f"there is {article(item.size)} {item.size} {named} {place_text(item)}",
        f"{article(named)} {named} on {article(background)} {background}",
        f"{article(item.shape)} {item.shape}",
        f"{article(item.color)} {item.color} shape",
    )
