"""What a model is asked for each image, and what is answered: classes or captions, and maps."""

import abc
import base64
import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.types import Transform
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError, check_choice, shorten
from jaxvision.evaluation.caption import (
    attention_reader,
    caption_writer,
    captions_of,
    words_with_maps,
)
from jaxvision.evaluation.explain import METHODS, one_map
from jaxvision.evaluation.predict import best_classes, guesses
from jaxvision.interop.trained import Trained
from jaxvision.train.input import make_preprocess

# Methods whose maps are small and come from one pass through the model, or one and its gradient.
QUICK_METHODS = ("gradcam", "gradcam++", "eigencam", "attention", "rollout", "gradient-rollout")
USUAL_METHODS = ("gradcam", "attention", "rollout", "gradient-rollout")  # those the model has

Row = dict[str, tuple[np.ndarray, ...]]  # of one image, by what was computed; "": the answer


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of an image, beside the answer.

    Attributes:
      maps: Kinds of maps.
      target: Class that the maps are of; None: the most probable one.
    """

    maps: frozenset[str] = frozenset()
    target: int | None = None


class Engine(abc.ABC):
    """A model behind the server.

    Attributes:
      name: Name of the model.
      task: Task of the model, "classification" or "captioning".
      transform: Resize and crop of an image, to uint8.
      class_names: Names of the classes by label; empty if nobody knows them.
      num_classes: Number of classes; 0 of a captioner.
      maps: Kinds of maps over the image that can be asked for.
      blank: Black image as the model sees it, uint8.
    """

    task: str
    class_names: tuple[str, ...] = ()
    num_classes: int = 0
    maps: tuple[str, ...] = ()

    def __init__(self, trained: Trained):
        self.name = trained.spec.name
        self.transform: Transform = trained.transform
        self.blank = self.transform(np.zeros((64, 64, 3), np.uint8), None)

    def compute(self, pixels: np.ndarray, asked: Sequence[Asked]) -> list[Row]:
        """Returns what the model says of the first images of a batch, of which something is asked.

        Args:
          pixels: Pixels as the model sees them, uint8 [b, height, width, 3].
          asked: What is asked of each of the first images; those behind them fill the batch up.
        """
        maps = frozenset[str]().union(*(each.maps for each in asked))
        found = self._compute(jnp.asarray(pixels), maps)
        arrays = {kind: tuple(map(np.asarray, outputs)) for kind, outputs in found.items()}
        return [
            {
                kind: tuple(array[i] for array in outputs)
                for kind, outputs in arrays.items()
                if not kind or kind in each.maps
            }
            for i, each in enumerate(asked)
        ]

    @abc.abstractmethod
    def _compute(self, pixels: Any, maps: frozenset[str]) -> dict[str, tuple[Any, ...]]:
        """Returns arrays [b, ...] by the kind of map; "": those of the answer."""

    @abc.abstractmethod
    def answer(self, row: Row, top: int | None) -> dict[str, Any]:
        """Returns the answer for an image, as JSON; with `maps` where they were computed.

        Args:
          row: Arrays of the image, from `compute`.
          top: Number of classes or captions, at most; None: the server's.

        Raises:
          InputError: if the model gives no finite numbers for the image.
        """


class ClassEngine(Engine):
    """A classifier. Answers are computed together, maps for each image by itself.

    Args:
      trained: Model and its preprocessing.
      class_names: Names of the classes by label; classes beyond them have no name.
      top: Number of classes of an answer, unless a request asks for another.
      maps: Kinds of maps, of `QUICK_METHODS`; None: of `USUAL_METHODS` those that the model has.

    Raises:
      InputError: if the model has not such maps.
    """

    task = "classification"

    def __init__(
        self,
        trained: Trained,
        class_names: tuple[str, ...],
        *,
        top: int,
        maps: Sequence[str] | None = None,
    ):
        super().__init__(trained)
        self._best, self.class_names, self._top = best_classes(trained), class_names, top
        self._model, self.num_classes = trained.model, trained.model.config.num_classes
        preprocess = trained.spec.preprocess
        self._normalise = make_preprocess(mean=preprocess.mean, std=preprocess.std)
        self.maps = self._existing(USUAL_METHODS) if maps is None else tuple(dict.fromkeys(maps))
        for kind in self.maps:
            check_choice("--maps", shorten(kind, 40), QUICK_METHODS)
            self._check_map(kind)

    def _existing(self, kinds: Sequence[str]) -> tuple[str, ...]:
        found = []
        for kind in kinds:
            with contextlib.suppress(InputError):
                self._check_map(kind)
                found.append(kind)
        return tuple(found)

    def _check_map(self, kind: str) -> None:
        """Raises InputError if the model has not such a map."""
        images = self._normalise(jnp.asarray(self.blank)[None])
        jax.eval_shape(METHODS[kind], self._model, images, jnp.zeros(1, jnp.int32))

    def _compute(self, pixels: Any, maps: frozenset[str]) -> dict[str, tuple[Any, ...]]:
        del maps
        return {"": self._best(pixels)}

    def compute(self, pixels: np.ndarray, asked: Sequence[Asked]) -> list[Row]:
        """Returns what the model says of the first images of a batch, with maps of some."""
        rows = super().compute(pixels, asked)
        for one, each, row in zip(pixels, asked, rows, strict=False):
            target = int(row[""][1][0]) if each.target is None else each.target
            for kind in each.maps:
                images = self._normalise(jnp.asarray(one)[None])
                row[kind] = (one_map(self._model, kind, images, target), np.asarray(target))
        return rows

    def answer(self, row: Row, top: int | None) -> dict[str, Any]:
        """Returns the most probable classes, as `predict --json` prints them, and maps."""
        values, indices = (array[: top or self._top] for array in row[""])
        if not np.isfinite(values).all():
            raise InputError("the model gives no finite probabilities for it")
        found = guesses(values, indices, self.class_names)
        told: dict[str, Any] = {"guesses": [dataclasses.asdict(guess) for guess in found]}
        maps = [self._map(kind, *row[kind]) for kind in self.maps if kind in row]
        return told | ({"maps": maps} if maps else {})

    def _map(self, kind: str, values: np.ndarray, target: np.ndarray) -> dict[str, Any]:
        if not np.isfinite(values).all():
            raise InputError(f"the model gives no finite {kind} for it")
        (guess,) = guesses(np.zeros(1), target[None], self.class_names)
        label = f"class {guess.index}" if guess.name is None else guess.name
        return {"kind": kind, "label": label, "values": values.tolist()}


class CaptionEngine(Engine):
    """A captioner; each word of the best caption has a map of where it was read from.

    Args:
      trained: Model and its preprocessing.
      vocabulary: Vocabulary of the model's tokens.
      settings: Settings of decoding.
    """

    task = "captioning"

    def __init__(self, trained: Trained, vocabulary: Vocabulary, settings: DecodeSettings):
        super().__init__(trained)
        self._vocabulary = vocabulary
        self._write = caption_writer(trained, settings)
        try:
            self._read = attention_reader(trained, self.blank.shape)
            self.maps = ("attention",)
        except InputError:  # the decoder sees the image as one vector
            self._read = None

    def _compute(self, pixels: Any, maps: frozenset[str]) -> dict[str, tuple[Any, ...]]:
        tokens, scores = self._write(pixels, jnp.zeros(len(pixels), jnp.int32))
        found: dict[str, tuple[Any, ...]] = {"": (tokens, scores)}
        if self._read is not None and "attention" in maps:
            found["attention"] = (self._read(pixels, tokens[:, 0]),)
        return found

    def answer(self, row: Row, top: int | None) -> dict[str, Any]:
        """Returns the captions, as `caption --json` prints them."""
        tokens, scores = row[""]
        captions = captions_of(self._vocabulary, tokens, scores)[:top]
        if not captions:
            raise InputError("the model finds no caption for it")
        told: dict[str, Any] = {
            "captions": [{"caption": each.caption, "score": each.score} for each in captions]
        }
        if "attention" in row:
            told["maps"] = self._maps(np.asarray(captions[0].tokens), row["attention"][0])
        return told

    def _maps(self, tokens: np.ndarray, maps: np.ndarray) -> list[dict[str, Any]]:
        try:
            words, found = words_with_maps(self._vocabulary, tokens, maps)
        except InputError:  # the caption is empty
            return []
        return [
            {"kind": "attention", "label": word, "values": values.tolist()}
            for word, values in zip(words, found, strict=True)
        ]


def data_url(pixels: np.ndarray) -> str:
    """Returns pixels as the address of a PNG, which a page can show."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def png(pixels: np.ndarray) -> bytes:
    """Returns uint8 pixels [height, width, 3] as a PNG file."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
