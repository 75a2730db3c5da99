"""How the images of the `shapes` source are drawn: numpy for backgrounds, OpenCV for outlines."""

import math

import cv2
import numpy as np

from jaxvision.data.sources.shape_scene import COLORS, Difficulty, Scene, SceneObject


def draw_image(
    rng: np.random.Generator, scene: Scene, difficulty: Difficulty, *, height: int, width: int
) -> np.ndarray:
    """Returns uint8 [height, width, 3], RGB, of a scene; texture, clutter and noise are random."""
    image = _paint_background(rng, scene, height, width)
    _paint_clutter(image, rng, scene, difficulty)
    for item in scene.objects:
        _paint_object(image, item)
    _add_noise(image, rng, difficulty.noise)
    return image


def _arc(start: float, stop: float, *, radius: float = 1.0, x: float = 0.0) -> np.ndarray:
    """Returns points [49, 2] on a circle around (x, 0), from one angle to another (radians)."""
    angles = np.linspace(start, stop, 49)
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _corners(radii: list[float], *, turn: float) -> np.ndarray:
    """Returns a polygon [n, 2] with corners at equal angles and the given distances."""
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii) + turn
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _cross(arm: float) -> np.ndarray:
    side = np.sqrt(1 - arm**2)  # the tips of the arms touch the unit circle
    quarter = np.array([[arm, arm], [arm, side], [-arm, side]])
    return np.concatenate([quarter @ _turn_matrix(90.0 * k).T for k in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 97)
    curve_y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -curve_y - 2.5], axis=1) / 18.3


def _crescent() -> np.ndarray:
    # A disc, less a smaller one around (0.5, 0); they meet at +-1.05 rad of the large circle.
    radius = np.hypot(np.cos(1.05) - 0.5, np.sin(1.05))
    inner = np.arctan2(np.sin(1.05), np.cos(1.05) - 0.5)
    outside = _arc(1.05, 2 * np.pi - 1.05)
    return np.concatenate([outside, _arc(2 * np.pi - inner, inner, radius=radius, x=0.5)])


def _turn_matrix(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


# Class name: closed outlines inside the unit circle, y down; a second outline is a hole.
_OUTLINES: dict[str, list[np.ndarray]] = {
    "circle": [_arc(0.0, 2 * np.pi)],
    "crescent": [_crescent()],
    "cross": [_cross(0.24)],
    "heart": [_heart()],
    "ring": [_arc(0.0, 2 * np.pi), _arc(0.0, 2 * np.pi, radius=0.6)],
    "square": [_corners([1.0] * 4, turn=np.pi / 4)],
    "star": [_corners([1.0, 0.42] * 5, turn=-np.pi / 2)],
    "triangle": [_corners([1.0] * 3, turn=-np.pi / 2)],
}
_SHIFT = 4  # fractional bits of the coordinates that OpenCV is given


def _paint_object(image: np.ndarray, item: SceneObject) -> None:
    height, width = image.shape[:2]
    radius = item.diameter * min(height, width) / 2
    matrix = radius * _turn_matrix(item.rotation).T
    # OpenCV counts from the centre of the first pixel, a scene from its corner.
    center = np.array([item.x * width - 0.5, item.y * height - 0.5])
    outlines = [
        np.rint((outline @ matrix + center) * (1 << _SHIFT)).astype(np.int32)
        for outline in _OUTLINES[item.shape]
    ]
    cv2.fillPoly(image, outlines, item.rgb, lineType=cv2.LINE_AA, shift=_SHIFT)


def _paint_background(
    rng: np.random.Generator, scene: Scene, height: int, width: int
) -> np.ndarray:
    """Returns a new uint8 image [height, width, 3]."""
    first = np.array(scene.background_rgb, np.float32)
    if scene.background == "plain":
        return np.full((height, width, 3), scene.background_rgb, np.uint8)
    # Everything else is a map of shares of two tones. The second tone is darker for a bright colour
    # and brighter for a dark one, so that the colour's name stays true.
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    angle, cycles = rng.uniform(0, 2 * math.pi), 2 * math.pi * rng.uniform(2.5, 5)
    cos, sin = math.cos(angle), math.sin(angle)
    along = cos * x + sin * y  # [height, width]
    if scene.background == "gradient":
        share = (along - along.min()) / np.ptp(along)
    elif scene.background == "striped":
        share = 0.5 + 3 * np.sin(cycles * along)
    elif scene.background == "checkered":
        share = 0.5 + 4 * np.sin(cycles * along) * np.sin(cycles * (cos * y - sin * x))
    else:  # cloudy
        grid = rng.random((5, 5), np.float32)
        share = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    second = np.clip(first + (40 if first.mean() < 110 else -40), 0, 255)
    tones = np.linspace(first, second, 256).astype(np.uint8)[:, None]  # [256, 1, 3]
    return cv2.applyColorMap((np.clip(share, 0, 1) * 255).astype(np.uint8), tones)


def _paint_clutter(
    image: np.ndarray, rng: np.random.Generator, scene: Scene, difficulty: Difficulty
) -> None:
    """Draws strokes and dots, much smaller than any object and never in front of it."""
    number = int(rng.integers(difficulty.clutter[0], difficulty.clutter[1] + 1))
    if number == 0:
        return
    height, width = image.shape[:2]
    # Not in an object's colour, in which a stroke would change its outline.
    used = {item.color for item in scene.objects}
    palette = [rgb for name, rgb in COLORS.items() if name not in used]
    colors = rng.integers(len(palette), size=number).tolist()
    starts = rng.random((number, 2))
    steps = rng.uniform(-0.25, 0.25, (number, 2)) * rng.integers(2, size=(number, 1))  # 0: a dot
    ends = starts + steps
    thicknesses = rng.uniform(0.015, 0.05, number) * min(height, width)
    points = (
        np.rint(np.stack([starts, ends]) * [width, height] * (1 << _SHIFT)).astype(int).tolist()
    )
    for start, end, color, thickness in zip(*points, colors, thicknesses, strict=True):
        thickness = max(1, round(thickness))
        cv2.line(image, start, end, palette[color], thickness, cv2.LINE_AA, _SHIFT)


def _add_noise(image: np.ndarray, rng: np.random.Generator, amplitude: float) -> None:
    """Adds uniform noise in place; a byte a value is twenty times as fast as a normal draw."""
    noise = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    # image + amplitude * (noise - 127.5) / 127.5, rounded and clipped
    cv2.addWeighted(image, 1.0, noise, amplitude / 127.5, -amplitude, dst=image)
