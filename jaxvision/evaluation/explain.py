"""Explanations of single images by a trained classifier: which methods, for which classes."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxvision import explain
from jaxvision.data.class_lists import readable
from jaxvision.data.image_files import ImageFile
from jaxvision.errors import InputError, shorten
from jaxvision.evaluation.predict import in_batches
from jaxvision.interop.trained import Trained
from jaxvision.train.input import make_preprocess


@dataclasses.dataclass(frozen=True)
class Explained:
    """One image.

    Attributes:
      image: Path of the image.
      error: Reason why the image cannot be used; None if it can.
      pixels: Pixels as the model saw them, uint8; None if there was an error.
      targets: Classes that are explained.
      probabilities: Probability of each of them.
      maps: Map [rows, columns] of each method, for each class.
      titles: Titles of the classes, name and probability; or words of a caption.
      heads: Attention [heads, rows, columns] of each layer, if it was asked for.
    """

    image: str
    error: str | None = None
    pixels: np.ndarray | None = None
    targets: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    maps: dict[str, tuple[np.ndarray, ...]] = dataclasses.field(default_factory=dict)
    titles: tuple[str, ...] = ()
    heads: tuple[np.ndarray, ...] = ()


def _noise(images: jax.Array) -> jax.Array:
    return 0.5 * jax.random.normal(jax.random.key(0), (20, *images.shape), images.dtype)


def _occlusion(model: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
    window = max(1, min(images.shape[1:3]) // 7)
    return explain.occlusion(model, images, targets, window=window, stride=max(1, window // 2))


# Each returns [batch, rows, columns] of (model, images, targets). Attributions of pixels have a
# sign in each colour: what is drawn is their size.
METHODS: dict[str, Callable[..., jax.Array]] = {
    "gradcam": explain.grad_cam,
    "gradcam++": explain.grad_cam_plus_plus,
    "eigencam": lambda model, images, targets, **stage: explain.eigen_cam(model, images, **stage),
    "integrated-gradients": lambda *inputs: jnp.abs(
        explain.integrated_gradients(*inputs, steps=32)
    ).sum(axis=-1),
    "smoothgrad": lambda model, images, targets: jnp.abs(
        explain.smooth_grad(model, images, targets, _noise(images))
    ).sum(axis=-1),
    "occlusion": _occlusion,
    "attention": lambda model, images, targets: (
        explain.attention_maps(model, images, layers=(-1,))[0].seen().mean(axis=1)
    ),
    "rollout": lambda model, images, targets: explain.rollout(model, images).seen()[:, 0],
    "gradient-rollout": lambda *inputs: explain.gradient_rollout(*inputs).seen()[:, 0],
}
_WITH_STAGE = ("gradcam", "gradcam++", "eigencam")


def one_map(
    model: Any, name: str, images: jax.Array, target: int, *, stage: int = -1
) -> Float[np.ndarray, "rows columns"]:
    """Returns the map of an image.

    Args:
      model: Classifier, in evaluation.
      name: Name of the method, see `METHODS`.
      images: Normalised image, a batch of one.
      target: Class to explain.
      stage: Index of the stage of Grad-CAM and its kin, see `jv.explain.feature_maps`.
    """
    method = METHODS[name]
    if name in _WITH_STAGE:
        method = functools.partial(method, stage=stage)
    return np.asarray(method(model, images, jnp.asarray([target]))[0], np.float32)


def check_methods(names: Sequence[str]) -> None:
    """Raises InputError unless every name is one of `METHODS`."""
    for name in names:
        if name not in METHODS:
            raise InputError(f"There is no method {shorten(name)}: take {', '.join(METHODS)}.")


def explain_images(
    trained: Trained,
    images: Sequence[ImageFile],
    *,
    methods: Sequence[str],
    targets: Sequence[int] = (),
    stage: int = -1,
) -> Iterator[Explained]:
    """Yields the explanations of each image, in their order.

    Args:
      trained: Classifier and its preprocessing.
      images: Images to explain; those that cannot be decoded come back with an error.
      methods: Names of the methods, see `METHODS`.
      targets: Classes to explain; none: the most probable one of each image.
      stage: Index of the stage of Grad-CAM and its kin, see `jv.explain.feature_maps`.
    """
    normalise = make_preprocess(mean=trained.spec.preprocess.mean, std=trained.spec.preprocess.std)
    chance_of = jax.nn.softmax if trained.thresholds is None else jax.nn.sigmoid
    forward = jax.jit(lambda model, images: chance_of(model(images)))
    model = trained.model

    def compute(pixels: jax.Array, first: int) -> tuple[jax.Array, ...]:
        del first
        return normalise(pixels), forward(model, normalise(pixels))

    for image, pixels, answer in in_batches(images, trained.transform, compute, 1):
        if isinstance(pixels, str):
            yield Explained(image.name, pixels)
            continue
        inputs, chances = jnp.asarray(answer[0])[None], answer[1]
        chosen = tuple(targets) or (int(chances.argmax()),)
        maps = {}
        for name in methods:
            maps[name] = tuple(one_map(model, name, inputs, each, stage=stage) for each in chosen)
        heads: tuple[np.ndarray, ...] = ()
        if "attention" in methods:
            heads = tuple(np.asarray(x.seen()[0]) for x in explain.attention_maps(model, inputs))
        probabilities = tuple(float(chances[each]) for each in chosen)
        yield Explained(image.name, None, pixels, chosen, probabilities, maps, heads=heads)


def find_targets(text: str, class_names: tuple[str, ...], num_classes: int) -> tuple[int, ...]:
    """Returns the classes that a user named, by name or by number.

    Args:
      text: Names or numbers of classes, with commas between them; names in any case.
      class_names: Names of the classes by label; empty if nobody knows them.
      num_classes: Number of classes.

    Raises:
      InputError: if there is no such class, or several are called so.
    """
    names = [name.lower() for name in readable(class_names)]
    found = []
    for part in (part.strip() for part in text.split(",")):
        if part.isascii() and part.isdigit() and part.lower() not in names:
            label = int(part)
            if label >= num_classes:
                raise InputError(
                    f"There is no class {shorten(part)}: the model has classes 0 to"
                    f" {num_classes - 1}."
                )
            found.append(label)
            continue
        labels = [label for label, name in enumerate(names) if name == part.lower()]
        if len(labels) > 1:
            raise InputError(
                f"Several classes are called {part}: give a number, {labels[0]} or {labels[1]}."
            )
        if not labels:
            near = difflib.get_close_matches(part.lower(), names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ", give its number."
            raise InputError(f"There is no class called {shorten(part) or repr(part)}{hint}")
        found.append(labels[0])
    return tuple(found)
