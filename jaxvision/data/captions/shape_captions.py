"""The captions of the `shapes` source: two objects, and where one lies from the other."""

import itertools
from collections.abc import Iterator

import numpy as np

from jaxvision.data.captions.caption_source import CaptionExample, CaptionSource
from jaxvision.data.source import DataError
from jaxvision.data.sources.shape_drawing import draw_image
from jaxvision.data.sources.shape_scene import (
    COLORS,
    RGB,
    SHAPES,
    SIZES,
    Difficulty,
    Scene,
    SceneObject,
    article,
    color_distance,
    vary_color,
)
from jaxvision.data.sources.shapes import check_shapes_options

# Two objects side by side, each as large as one alone, would not fit into the image.
_SCALE = 0.55
_GAP = 0.03  # between the circles around them, share of the image
_OPPOSITE = {"above": "below", "left of": "right of"}
# a, b: the objects with their articles, the upper or left one first.
_TEMPLATES = (
    "{a} {relation} {b}",
    "{b} {opposite} {a}",
    "there is {a} {relation} {b}",
    "{a} is {relation} {b}",
    "{b} is {opposite} {a}",
)


class ShapeCaptionSource(CaptionSource):
    """Images of two shapes, with captions such as "a red circle above a blue square".

    An image depends on the split, the index and the difficulty alone, as in ShapesSource; the two
    splits never share one, nor do they share any with ShapesSource. The captions follow from what
    the image shows: the relation is that of the longer way between the objects, at least twice as
    long as the other, and each template fixes which object comes first. So a caption of an unseen
    image is exactly right if it is one of `captions(index)`.

    Augmentation must leave true what the captions say: a horizontal flip would swap left and right,
    a crop may lose an object, and a change of hue the names of the colours.

    Args:
      split: Name of the split: train | test.
      num_train: Number of images of the train split.
      num_eval: Number of images of the test split.
      difficulty: Difficulty of the images: easy | medium | hard.
      image_size: Size of the images in pixels, one side or (height, width).
      num_captions: Number of captions of each image, 1 to 5; 1: the plainest alone.

    Raises:
      DataError: for another difficulty, split or number of captions, or a size below 8 pixels.
    """

    def __init__(
        self,
        split: str,
        *,
        num_train: int = 50_000,
        num_eval: int = 2_000,
        difficulty: str = "medium",
        image_size: int | tuple[int, int] = 224,
        num_captions: int = len(_TEMPLATES),
    ):
        self._difficulty, (self._height, self._width) = check_shapes_options(
            split, difficulty, image_size
        )
        if not 1 <= num_captions <= len(_TEMPLATES):
            raise DataError(
                f"Shapes have 1 to {len(_TEMPLATES)} captions an image, not {num_captions}."
            )
        self._split = split
        self._num_captions = num_captions
        self._num_examples = num_train if split == "train" else num_eval

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> CaptionExample:
        rng = self._generator(index)
        scene = _draw_pair(rng, self._difficulty)
        image = draw_image(rng, scene, self._difficulty, height=self._height, width=self._width)
        return {"image": image, "captions": self._describe(scene), "image_id": index}

    def _generator(self, index: int) -> np.random.Generator:
        if not 0 <= index < self._num_examples:
            raise IndexError(f"{self._split} has {self._num_examples} images, so none at {index}")
        return np.random.default_rng([1, int(self._split == "test"), index])

    def _describe(self, scene: Scene) -> tuple[str, ...]:
        return describe_pair(scene)[: self._num_captions]

    def scene(self, index: int) -> Scene:
        """Returns what the image shows, the upper or left object first."""
        return _draw_pair(self._generator(index), self._difficulty)

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns true captions of the image, the plainest first."""
        return self._describe(self.scene(index))

    def all_captions(self) -> Iterator[str]:
        """Yields all captions that there can be, which takes less time than to draw all images."""
        things = [f"{article(color)} {color} {shape}" for color in COLORS for shape in SHAPES]
        for a, b, relation in itertools.product(things, things, _OPPOSITE):
            yield from _captions(a, b, relation)[: self._num_captions]

    def image_id(self, index: int) -> int:
        """Returns the index."""
        return index

    def describe(self, index: int) -> str:
        """Returns the split and the index."""
        return f"shapes {self._split} image {index}"


def describe_pair(scene: Scene) -> tuple[str, ...]:
    """Returns true captions of a scene of two objects, the plainest first."""
    first, second = scene.objects
    vertical = abs(second.y - first.y) > abs(second.x - first.x)
    relation = "above" if vertical else "left of"
    a, b = (f"{article(item.color)} {item.color} {item.shape}" for item in (first, second))
    return _captions(a, b, relation)


def _captions(a: str, b: str, relation: str) -> tuple[str, ...]:
    return tuple(
        template.format(a=a, b=b, relation=relation, opposite=_OPPOSITE[relation])
        for template in _TEMPLATES
    )


def _draw_pair(rng: np.random.Generator, difficulty: Difficulty) -> Scene:
    # All draws at once: one by one they cost more than the drawing.
    shares = rng.random(9).tolist()
    numbers = rng.integers(len(SHAPES) * len(difficulty.backgrounds), size=2).tolist()
    shapes = [SHAPES[number % len(SHAPES)] for number in numbers]
    texture = difficulty.backgrounds[numbers[0] // len(SHAPES)]
    colors, background, background_rgb = _draw_colors(rng, difficulty)
    smallest, largest = (_SCALE * diameter for diameter in difficulty.diameter)
    diameters = [_between(smallest, largest, share) for share in shares[:2]]
    (low, high), (low_across, high_across) = ((d / 2, 1 - d / 2) for d in diameters)
    # Along the relation's axis, then across it, where the way is at most half as long.
    way = _between(sum(diameters) / 2 + _GAP, high_across - low, shares[2])
    along = _between(low, high_across - way, shares[3])
    across = _between(low, high, shares[4])
    other = _between(
        max(low_across, across - way / 2), min(high_across, across + way / 2), shares[5]
    )
    places = [(across, along), (other, along + way)]
    if shares[6] < 0.5:
        places = [(y, x) for x, y in places]
    objects = tuple(
        SceneObject(
            shape=shape,
            color=name,
            rgb=rgb,
            size=SIZES[int(size * len(SIZES))],
            diameter=diameter,
            x=x,
            y=y,
            rotation=_between(-difficulty.rotation, difficulty.rotation, share),
        )
        for shape, (name, rgb), size, diameter, (x, y), share in zip(
            shapes, colors, shares[:2], diameters, places, shares[7:], strict=True
        )
    )
    return Scene(objects, texture, background, background_rgb)


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


def _draw_colors(
    rng: np.random.Generator, difficulty: Difficulty
) -> tuple[list[tuple[str, RGB]], str, RGB]:
    """Returns two colours that stand out from that of the background, and the background's."""
    names = list(COLORS)
    changes = rng.integers(-12, 13, 9).tolist()
    while True:
        chosen = [names[i] for i in rng.integers(len(names), size=3).tolist()]
        first, second, back = (
            vary_color(COLORS[name], changes[3 * i : 3 * i + 3]) for i, name in enumerate(chosen)
        )
        contrast = min(color_distance(first, back), color_distance(second, back))
        if contrast >= difficulty.contrast:
            return [(chosen[0], first), (chosen[1], second)], chosen[2], back
