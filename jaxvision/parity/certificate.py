"""The parity certificate: what was compared, how far apart it is, and which layer is the first."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxvision.models.registry import get_spec, list_models
from jaxvision.parity import image_text
from jaxvision.parity.layers import Layer, compare_layers
from jaxvision.parity.pair import (
    FLOAT32_BAR,
    FLOAT64_BAR,
    Detail,
    Pair,
    batch,
    forward_distance,
    gradient_detail,
    training_detail,
)
from jaxvision.parity.peers import build_pair, has_peer
from jaxvision.profiling.table import markdown_table, text_table

BARS = {"float64": FLOAT64_BAR, "float32": FLOAT32_BAR}
# Of gradients and steps in float32: batch statistics of a few pixels make 3e-5 of the rounding.
FLOAT32_TRAINING_BAR = 1e-3
LIBRARIES = ("timm", "torchvision", "hf")
# What one step of training is taken with: learning rate and weight decay.
RECIPES = {"adamw": (1e-3, 0.1), "sgd": (0.05, 1e-3)}
# Of models that take images of any size; the others are compared at the size they are made for.
IMAGE_SIZE = 96

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The distances of one pair, each relative to the largest number.

    Attributes:
      distances: Largest distance of each kind.
      places: Name of the array that the largest distance belongs to, by kind.
      layers: Layers of the evaluation, in the order of the peer's computation.
      bar: Bar that the distances of layers and logits in evaluation must be below.
      training_bar: Bar that all other distances must be below.
    """

    distances: dict[str, float]
    places: dict[str, str]
    layers: list[Layer]
    bar: float
    training_bar: float

    @property
    def wrong(self) -> list[str]:
        """The kinds that are not below their bar.

        A layer alone is not wrong: two libraries may scale the query at different places.
        """
        bars = {"evaluation logits": self.bar}
        return [
            kind
            for kind, distance in self.distances.items()
            if not distance < bars.get(kind, self.training_bar)
        ]

    @property
    def passed(self) -> bool:
        """Whether the two models are the same."""
        return not self.wrong

    @property
    def first_layer(self) -> Layer | None:
        """The first layer that disagrees."""
        return next((layer for layer in self.layers if not layer.distance < self.bar), None)


def certify(
    pair: Pair, images: np.ndarray, labels: np.ndarray, progress: Progress = lambda text: None
) -> Certificate:
    """Compares layers, logits, gradients, a step of AdamW and of SGD, and running statistics.

    Args:
      pair: Pair of the models.
      images: Images [batch, height, width, channels].
      labels: Class indices of the images.
      progress: Function that is told what comes next.
    """
    progress("layers")
    layers = compare_layers(pair, images)
    progress("logits")
    detail = {"evaluation logits": {"logits": forward_distance(pair, images, pair.dtype)}}
    progress("gradients")
    detail |= gradient_detail(pair, images, labels, train=True)
    detail["training logits"] = detail.pop("logits")
    for name, (rate, weight_decay) in RECIPES.items():
        progress(f"a step of {name}")
        recipe = {"name": name, "rate": rate, "weight_decay": weight_decay}
        detail |= training_detail(pair, images, labels, steps=1, **recipe)
    return _certificate(detail, layers, pair.dtype)


def _certificate(detail: Detail, layers: list[Layer], dtype: str) -> Certificate:
    places = {kind: max(each, key=lambda name: each[name]) for kind, each in detail.items()}
    distances = {kind: detail[kind][place] for kind, place in places.items()}
    training_bar = FLOAT64_BAR if dtype == "float64" else FLOAT32_TRAINING_BAR
    return Certificate(distances, places, layers, BARS[dtype], training_bar)


def certify_image_text(
    name: str,
    library: str,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 2,
    dtype: str = "float64",
    progress: Progress = lambda text: None,
) -> Certificate:
    """Compares a pair of encoders with that of transformers; see `certify_model`.

    Args:
      name: Name of our model.
      library: Library of the peer: "hf" alone.
      image_size: Height and width in pixels; None: what the model is made for.
      batch_size: Number of pairs.
      dtype: Dtype of both models, "float64" or "float32".
      progress: Function that is told what comes next.

    Raises:
      InputError: if the library has no such model, or the size does not fit it.
    """
    progress("both models")
    options = {} if image_size is None else {"image_size": image_size}
    pair = image_text.build_image_text_pair(name, library, dtype=dtype, **options)
    inputs = image_text.batch(pair, size=batch_size)
    progress("logits and gradients")
    detail = image_text.gradient_detail(pair, *inputs)
    for rule, (rate, weight_decay) in RECIPES.items():
        progress(f"a step of {rule}")
        recipe = {"name": rule, "rate": rate, "weight_decay": weight_decay}
        detail |= image_text.training_detail(pair, *inputs, steps=1, **recipe)
    return _certificate(detail, [], dtype)


def certify_model(
    name: str,
    library: str,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 2,
    dtype: str = "float64",
    progress: Progress = lambda text: None,
) -> Certificate:
    """Builds both models with the same random weights and compares them; see `certify`.

    Args:
      name: Name of our model.
      library: Library of the peer: "timm", "torchvision" or "hf".
      image_size: Height and width in pixels; None: 96, or what the model is made for.
      batch_size: Number of images.
      dtype: Dtype of both models, "float64" or "float32".
      progress: Function that is told what comes next.

    Raises:
      InputError: if the library has no such model, or the size does not fit it.
    """
    if get_spec(name).task == "image_text":
        how: dict[str, Any] = {"batch_size": batch_size, "dtype": dtype, "progress": progress}
        return certify_image_text(name, library, image_size=image_size, **how)
    spec = get_spec(name, task="classification")
    config = spec.config
    side = spec.image_size if hasattr(config, "image_size") else IMAGE_SIZE
    height, width = image_size or (side, side)
    progress("both models")
    pair = build_pair(name, library, height=height, width=width, dtype=dtype)
    images, labels = batch(height, width, size=batch_size, channels=config.in_channels)
    return certify(pair, images, labels, progress)


def certificate_text(certificate: Certificate) -> str:
    """Returns every distance as text, with the verdict in the last line."""
    layers = certificate.layers
    rows = [(layer.theirs, layer.ours, f"{layer.distance:.1e}") for layer in layers]
    parts = [text_table(("layer there", "layer here", "distance"), rows)] if rows else []
    largest = max((layer.distance for layer in layers), default=0.0)
    rows = [
        (kind, f"{distance:.1e}", certificate.places[kind])
        for kind, distance in certificate.distances.items()
    ]
    rows.insert(0, (f"{len(layers)} layers", f"{largest:.1e}", _place(layers)))
    parts.append(text_table(("compared", "distance", "largest in"), rows))
    return "\n\n".join([*parts, verdict(certificate)])


def _place(layers: list[Layer]) -> str:
    return max(layers, key=lambda layer: layer.distance).theirs if layers else ""


def verdict(certificate: Certificate) -> str:
    """Returns one sentence."""
    bar, first = certificate.bar, certificate.first_layer
    limits = " or ".join(f"{each:.0e}" for each in sorted({bar, certificate.training_bar}))
    if certificate.passed:
        count = sum(not layer.distance < bar for layer in certificate.layers)
        inside = f"; of {count} layers the libraries draw the borders elsewhere" if count else ""
        return f"They agree: every distance is below {limits}{inside}."
    where = (
        f"the first layer that disagrees is {first.theirs}, here {first.ours}"
        if first
        else "no layer disagrees in evaluation"
    )
    arrays = ", ".join(f"{kind} ({certificate.places[kind]})" for kind in certificate.wrong)
    return f"They disagree: {where}; above {limits} are {arrays}."


def pairs(name: str | None, library: str | None) -> Iterator[tuple[str, str]]:
    """Yields (model, library) of what there is to compare.

    Args:
      name: Name of a model; None: of every family the smallest one that a library has.
      library: Library of the peer: "timm", "torchvision" or "hf"; None: each that has the model.

    Raises:
      InputError: if there is no such model, or no library has it.
    """
    wanted = (library,) if library else LIBRARIES
    if name is None:
        yield from (pair for pair in _smallest_members() if pair[1] in wanted)
    elif library or not any(has_peer(name, each) for each in wanted):
        yield name, library or LIBRARIES[0]  # `build_pair` says what is wrong
    else:
        yield from ((name, each) for each in wanted if has_peer(name, each))


def _smallest_members() -> Iterator[tuple[str, str]]:
    """Yields (model, library): of every family the smallest model that the library has."""
    names = [*list_models(), *list_models(task="image_text")]
    specs = sorted(map(get_spec, names), key=lambda spec: spec.num_params or math.inf)
    seen = set()
    for spec in specs:
        for library in LIBRARIES:
            if (spec.family, library) not in seen and has_peer(spec.name, library):
                seen.add((spec.family, library))
                yield spec.name, library


def certificates_table(rows: Iterable[tuple[str, str, Certificate]]) -> str:
    """Returns the Markdown table of the README, from (model, library, certificate)."""
    header = (
        "model",
        "against",
        "layers",
        "logits",
        "image gradient",
        "parameter gradients",
        "AdamW step",
        "SGD step",
        "running statistics",
    )

    def cells(name: str, library: str, certificate: Certificate) -> list[str]:
        kinds = certificate.distances
        statistics = [value for kind, value in kinds.items() if "statistics" in kind]
        values = [
            max(kinds["evaluation logits"], kinds["training logits"]),
            kinds["image gradient"],
            kinds["parameter gradients"],
            kinds["adamw parameters"],
            kinds["sgd parameters"],
        ]
        layers = [layer for layer in certificate.layers if layer.distance < certificate.bar]
        largest = max((layer.distance for layer in layers), default=0.0)
        others = f" of {len(certificate.layers)}" * (len(layers) < len(certificate.layers))
        return [
            f"`{name}`",
            f"{library} `{get_spec(name).peers[library]}`",
            f"{len(layers)}{others}: {largest:.0e}",
            *(f"{value:.0e}" for value in values),
            f"{max(statistics):.0e}" if statistics else "none",
        ]

    return markdown_table(header, [cells(*row) for row in rows])
