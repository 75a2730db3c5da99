"""The `shapes` source: drawn on demand, so that everything runs with no data at all."""

import numpy as np

from jaxvision.data.source import DataError, Example, Source
from jaxvision.data.sources.shape_drawing import draw_image
from jaxvision.data.sources.shape_scene import (
    COLORS,
    DIFFICULTIES,
    SHAPES,
    Difficulty,
    Scene,
    describe_scene,
    draw_scene,
)


class ShapesSource(Source):
    """Images of one shape each, on backgrounds of three difficulties.

    An image depends on the split and the index alone (and the difficulty): it is the same in every
    run, in any order, and larger sources only add images. At another size it shows the same scene.

    Args:
      split: Name of the split: train | test; the two never share an image.
      num_train: Number of images of the train split.
      num_eval: Number of images of the test split.
      difficulty: Difficulty of the images: easy | medium | hard.
      image_size: Size of the images in pixels, one side or (height, width).
      label: What of the object the label is: shape | color.

    Raises:
      DataError: for another difficulty, split or label, or a size below 8 pixels.
    """

    def __init__(
        self,
        split: str,
        *,
        num_train: int = 50_000,
        num_eval: int = 2_000,
        difficulty: str = "medium",
        image_size: int | tuple[int, int] = 224,
        label: str = "shape",
    ):
        self._difficulty, (self._height, self._width) = check_shapes_options(
            split, difficulty, image_size
        )
        if label not in ("shape", "color"):
            raise DataError(f"The label of shapes is shape or color, not {label!r}.")
        self._of_color = label == "color"
        self.class_names = tuple(COLORS) if self._of_color else SHAPES
        self._split = split
        self._num_examples = num_train if split == "train" else num_eval

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._num_examples:
            raise IndexError(f"{self._split} has {self._num_examples} images, so none at {index}")
        rng = generator(self._split, index)
        scene = draw_scene(rng, index, self._difficulty)
        image = draw_image(rng, scene, self._difficulty, height=self._height, width=self._width)
        return {"image": image, "label": self._label(scene)}

    def _label(self, scene: Scene) -> int:
        item = scene.objects[0]
        return self.class_names.index(item.color if self._of_color else item.shape)

    def label(self, index: int) -> int:
        """Returns the label of an image, without drawing it."""
        return self._label(self.scene(index)) if self._of_color else index % len(SHAPES)

    def scene(self, index: int) -> Scene:
        """Returns what the image shows."""
        return draw_scene(generator(self._split, index), index, self._difficulty)

    def captions(self, index: int) -> list[str]:
        """Returns true sentences about the image, the plainest first."""
        return describe_scene(self.scene(index))

    def describe(self, index: int) -> str:
        """Returns the split and the index."""
        return f"shapes {self._split} image {index}"


def generator(split: str, index: int) -> np.random.Generator:
    """Returns the source of all that is random in an image."""
    return np.random.default_rng([0, int(split == "test"), index])


def check_shapes_options(
    split: str, difficulty: str, image_size: int | tuple[int, int]
) -> tuple[Difficulty, tuple[int, int]]:
    """Returns the difficulty and (height, width), in pixels, of options that can be drawn.

    Raises:
      DataError: for another difficulty or split, or a size below 8 pixels.
    """
    if difficulty not in DIFFICULTIES:
        raise DataError(
            f"The difficulty of shapes is one of {', '.join(DIFFICULTIES)}, not {difficulty!r}."
        )
    if split not in ("train", "test"):
        raise DataError(f"The splits of shapes are train and test, not {split!r}.")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 8:
        raise DataError(f"Shapes need an image_size of at least 8 pixels, but it is {image_size}.")
    return DIFFICULTIES[difficulty], (height, width)
