"""What the images of the `shapes` source show, before anything is drawn."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]

# Told apart by eye and by name, also after the small change that every drawing gets.
COLORS: dict[str, RGB] = {
    "red": (210, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (245, 220, 50),
    "green": (50, 160, 60),
    "cyan": (60, 200, 210),
    "blue": (40, 80, 205),
    "purple": (130, 50, 160),
    "pink": (250, 150, 190),
    "brown": (120, 75, 35),
    "black": (25, 25, 25),
    "gray": (128, 128, 128),
    "white": (240, 240, 240),
}
# The classes, in alphabetical order; a label is the place in this list.
SHAPES = ("circle", "crescent", "cross", "heart", "ring", "square", "star", "triangle")
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Difficulty:
    """How far the drawings of one difficulty vary."""

    diameter: tuple[float, float]  # of the object, share of the image's short side
    rotation: float  # degrees, to either side
    contrast: float  # least distance between object and background, share of black to white
    backgrounds: tuple[str, ...]
    clutter: tuple[int, int]  # fewest and most strokes and dots behind the object
    noise: float  # grey levels, to either side


DIFFICULTIES = {
    "easy": Difficulty((0.5, 0.8), 15.0, 0.45, ("plain", "gradient"), (0, 0), 6.0),
    "medium": Difficulty((0.35, 0.75), 60.0, 0.35, ("plain", "gradient", "striped"), (0, 4), 16.0),
    "hard": Difficulty(
        (0.25, 0.65),
        180.0,
        0.28,
        ("plain", "gradient", "striped", "checkered", "cloudy"),
        (4, 10),
        36.0,
    ),
}


@dataclass(frozen=True)
class SceneObject:
    """One shape: places and sizes are shares of the image, (0, 0) is its top left corner."""

    shape: str
    color: str
    rgb: RGB
    size: str
    diameter: float  # share of the short side
    x: float
    y: float
    rotation: float  # degrees


@dataclass(frozen=True)
class Scene:
    """All that is said of one image before it is drawn."""

    objects: tuple[SceneObject, ...]
    background: str
    background_color: str
    background_rgb: RGB


def draw_scene(rng: np.random.Generator, index: int, difficulty: Difficulty) -> Scene:
    """Returns the scene of one image: its shape by the index, all else by chance."""
    # In turn, not by chance: every class is then equally frequent in every split.
    shape = SHAPES[index % len(SHAPES)]
    diameter, x, y, rotation = rng.random(4).tolist()
    diameter = difficulty.diameter[0] + diameter * (difficulty.diameter[1] - difficulty.diameter[0])
    smallest = DIFFICULTIES["hard"].diameter[0]
    largest = DIFFICULTIES["easy"].diameter[1]
    size = SIZES[min(int((diameter - smallest) / (largest - smallest) * 3), 2)]
    names = list(COLORS)
    while True:
        front, back = rng.integers(len(names), size=2).tolist()
        changes = rng.integers(-12, 13, 6).tolist()
        rgb = vary_color(COLORS[names[front]], changes[:3])
        background_rgb = vary_color(COLORS[names[back]], changes[3:])
        if front != back and color_distance(rgb, background_rgb) >= difficulty.contrast:
            break
    item = SceneObject(
        shape=shape,
        color=names[front],
        rgb=rgb,
        size=size,
        diameter=diameter,
        x=diameter / 2 + x * (1 - diameter),  # all of the object is inside the image
        y=diameter / 2 + y * (1 - diameter),
        rotation=(2 * rotation - 1) * difficulty.rotation,
    )
    background = difficulty.backgrounds[rng.integers(len(difficulty.backgrounds))]
    return Scene((item,), background, names[back], background_rgb)


def draw_group(rng: np.random.Generator, index: int, difficulty: Difficulty) -> Scene:
    """Returns a scene of one to three shapes, each in a quarter of its own of the image.

    Background and colours are drawn as in `draw_scene`; the shapes are half as large.
    """
    scene = draw_scene(rng, index, difficulty)
    quarters = rng.permutation(4)[: 1 + int(rng.integers(3))].tolist()
    names, items = list(COLORS), []
    for quarter in quarters:
        size, x, y, rotation = rng.random(4).tolist()
        low, high = difficulty.diameter
        diameter = (low + size * (high - low)) / 2
        while True:
            color = names[rng.integers(len(names))]
            rgb = vary_color(COLORS[color], rng.integers(-12, 13, 3).tolist())
            far = color_distance(rgb, scene.background_rgb) >= difficulty.contrast
            if far and color != scene.background_color:
                break
        item = SceneObject(
            shape=SHAPES[rng.integers(len(SHAPES))],
            color=color,
            rgb=rgb,
            size=SIZES[0],
            diameter=diameter,
            x=quarter % 2 / 2 + diameter / 2 + x * (0.5 - diameter),
            y=quarter // 2 / 2 + diameter / 2 + y * (0.5 - diameter),
            rotation=(2 * rotation - 1) * difficulty.rotation,
        )
        items.append(item)
    return dataclasses.replace(scene, objects=tuple(items))


def vary_color(color: RGB, changes: list[int]) -> RGB:
    """Returns a colour a little off, so that none is told by its exact value."""
    red, green, blue = (min(max(c + d, 0), 255) for c, d in zip(color, changes, strict=True))
    return red, green, blue


def color_distance(a: RGB, b: RGB) -> float:
    """Returns how far two colours are apart; black and white are 1 apart."""
    return math.dist(a, b) / math.dist((0, 0, 0), (255, 255, 255))


def describe_scene(scene: Scene) -> list[str]:
    """Returns true sentences about a scene, the plainest first."""
    item = scene.objects[0]
    background, place = background_text(scene), place_text(item)
    named = f"{item.color} {item.shape}"
    return [
        f"{article(item.size)} {item.size} {named} on {article(background)} {background}",
        f"{article(item.color)} {named} {place}",
        f"there is {article(item.size)} {item.size} {named} {place}",
        f"{article(item.shape)} {item.shape} on {article(background)} {background}",
    ]


def background_text(scene: Scene) -> str:
    """Returns what is behind the objects, without its article."""
    texture = "" if scene.background == "plain" else f"{scene.background} "
    return f"{texture}{scene.background_color} background"


def place_text(item: SceneObject) -> str:
    """Returns where in the image an object is."""
    vertical = "" if abs(item.y - 0.5) < 0.1 else ("top" if item.y < 0.5 else "bottom")
    horizontal = "" if abs(item.x - 0.5) < 0.1 else ("left" if item.x < 0.5 else "right")
    place = f"at the {vertical} {horizontal}".replace("  ", " ").strip()
    return place if vertical or horizontal else "in the center"


def article(text: str) -> str:
    """Returns the indefinite article of a text."""
    return "an" if text[0] in "aeiou" else "a"
