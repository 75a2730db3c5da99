"""What a model is asked for each image, and what is answered: classes or captions, and maps."""

import abc
import base64
import dataclasses
import io
from typing import Any

import jax.numpy as jnp
import numpy as np
import PIL.Image

from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.types import Transform
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError
from jaxvision.evaluation.caption import (
    attention_reader,
    caption_writer,
    captions_of,
    words_with_maps,
)
from jaxvision.evaluation.predict import best_classes, guesses
from jaxvision.interop.trained import Trained

Row = dict[str, tuple[np.ndarray, ...]]  # of one image, by what was computed; "": the answer


class Engine(abc.ABC):
    """A model behind the server.

    Attributes:
      name: Name of the model.
      task: Task of the model, "classification" or "captioning".
      transform: Resize and crop of an image, to uint8.
      class_names: Names of the classes by label; empty if nobody knows them.
      maps: Kinds of maps over the image that can be asked for.
      blank: Black image as the model sees it, uint8.
    """

    task: str
    class_names: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def __init__(self, trained: Trained):
        self.name = trained.spec.name
        self.transform: Transform = trained.transform
        self.blank = self.transform(np.zeros((64, 64, 3), np.uint8), None)

    def compute(self, pixels: np.ndarray, maps: frozenset[str]) -> list[Row]:
        """Returns what the model says of each image of a batch.

        Args:
          pixels: Pixels as the model sees them, uint8 [b, height, width, 3].
          maps: Kinds of maps to compute, too.
        """
        found = self._compute(jnp.asarray(pixels), maps)
        arrays = {kind: tuple(map(np.asarray, outputs)) for kind, outputs in found.items()}
        return [
            {kind: tuple(array[i] for array in outputs) for kind, outputs in arrays.items()}
            for i in range(len(pixels))
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
    """A classifier.

    Args:
      trained: Model and its preprocessing.
      class_names: Names of the classes by label; classes beyond them have no name.
      top: Number of classes of an answer, unless a request asks for another.
    """

    task = "classification"

    def __init__(self, trained: Trained, class_names: tuple[str, ...], *, top: int):
        super().__init__(trained)
        self._best, self.class_names, self._top = best_classes(trained), class_names, top

    def _compute(self, pixels: Any, maps: frozenset[str]) -> dict[str, tuple[Any, ...]]:
        del maps
        return {"": self._best(pixels)}

    def answer(self, row: Row, top: int | None) -> dict[str, Any]:
        """Returns the most probable classes, as `predict --json` prints them."""
        values, indices = (array[: top or self._top] for array in row[""])
        if not np.isfinite(values).all():
            raise InputError("the model gives no finite probabilities for it")
        found = guesses(values, indices, self.class_names)
        return {"guesses": [dataclasses.asdict(guess) for guess in found]}


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
