"""What a trained captioner says about images, and where it looks while it does."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxvision.data.captions.features import ENCODER_FILE
from jaxvision.data.captions.vocabulary import Vocabulary, check_vocabulary
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.image_files import ImageFile
from jaxvision.decode.generate import generate
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError, printable
from jaxvision.evaluation.embed import with_encoder
from jaxvision.evaluation.predict import in_batches
from jaxvision.interop.run_folder import VOCABULARY_FILE, open_run
from jaxvision.interop.trained import Trained, open_trained
from jaxvision.plots.caption_pictures import check_grid
from jaxvision.train.input import make_preprocess


@dataclasses.dataclass(frozen=True)
class Caption:
    """One caption of one image.

    Attributes:
      caption: Caption in words.
      score: Log-probability of the caption, divided as the settings say.
      tokens: Tokens that the caption was decoded from.
    """

    caption: str
    score: float
    tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Captioned:
    """One image.

    Attributes:
      image: Path of the image.
      captions: Captions, the best first; empty if the image cannot be used.
      error: Reason why the image cannot be used; None if it can.
      pixels: Pixels as the model saw them, uint8, before normalisation; None if there was an error.
    """

    image: str
    captions: tuple[Caption, ...]
    error: str | None = None
    pixels: np.ndarray | None = None


def open_captioner(
    run: str, encoder_weights: str | None = None
) -> tuple[Trained, Vocabulary, dict[str, Any]]:
    """Returns the model of a run, its vocabulary, and the `config.caption` it was trained with.

    A captioner that was trained on features gets the encoder that computed them.

    Args:
      run: Folder of the run, or of one of its checkpoints.
      encoder_weights: File or folder of that encoder's weights; None: where they were.

    Raises:
      InputError: if there is no run of a captioner, or its vocabulary is missing or another, or its
        encoder is not known, or not there.
    """
    folder = open_run(run)
    if folder.config["task"] != "captioning":
        raise InputError(
            f"{run} is a run for {folder.config['task']}: `jaxvision predict` uses it."
        )
    trained = open_trained(run)
    vocabulary = load_vocabulary(str(folder.folder / VOCABULARY_FILE))
    check_vocabulary(vocabulary, size=trained.model.config.vocab_size, where=f"the run {run}")
    if trained.model.config.encoder is None:
        trained = with_encoder(trained, run, folder.folder / ENCODER_FILE, encoder_weights)
    elif encoder_weights:
        raise InputError(f"{run} has an encoder of its own: leave --encoder-weights out.")
    return trained, vocabulary, folder.config["caption"]


def caption_images(
    trained: Trained,
    vocabulary: Vocabulary,
    images: Sequence[ImageFile],
    settings: DecodeSettings,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> Iterator[Captioned]:
    """Yields the captions of each image, in their order.

    Args:
      trained: Model and its preprocessing.
      vocabulary: Vocabulary of the model's tokens.
      images: Images to caption; those that cannot be decoded come back with an error.
      settings: Settings of decoding.
      batch_size: Number of images that are computed at once.
      seed: Seed of sampling.
    """
    write = caption_writer(trained, settings, seed=seed)

    def compute(pixels: jax.Array, first: int) -> tuple[jax.Array, ...]:
        return write(pixels, jnp.arange(first, first + len(pixels)))

    for image, pixels, answer in in_batches(images, trained.transform, compute, batch_size):
        if isinstance(pixels, str):
            yield Captioned(image.name, (), pixels)
            continue
        captions = captions_of(vocabulary, *answer)
        yield Captioned(image.name, captions, pixels=pixels)


def caption_writer(
    trained: Trained, settings: DecodeSettings, *, seed: int = 0
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns the compiled function from pixels to captions.

    Args:
      trained: Model and its preprocessing.
      settings: Settings of decoding.
      seed: Seed of sampling.

    Returns:
      Function (uint8 [b, height, width, 3], ids of the images [b]) -> (tokens, scores), the best
      caption of each image first.
    """
    preprocess_fn = make_preprocess(
        mean=trained.spec.preprocess.mean, std=trained.spec.preprocess.std
    )

    @jax.jit
    def run(model: Any, pixels: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        memory = model.encode(preprocess_fn(pixels))
        decoded = generate(model, memory, settings, key=jax.random.key(seed), image_ids=ids)
        return decoded.tokens, decoded.scores

    return functools.partial(run, trained.model)


def captions_of(
    vocabulary: Vocabulary, tokens: np.ndarray, scores: np.ndarray
) -> tuple[Caption, ...]:
    """Returns the captions of an image in words, the best first.

    Args:
      vocabulary: Vocabulary of the model's tokens.
      tokens: Tokens of each caption.
      scores: Score of each; a caption without a finite one is none.
    """
    return tuple(
        Caption(vocabulary.decode(row), float(score), tuple(row.tolist()))
        for row, score in zip(tokens, scores, strict=True)
        if np.isfinite(score)
    )


def run_settings(vocabulary: Vocabulary, options: dict[str, Any], **changes: Any) -> DecodeSettings:
    """Returns the settings of decoding that a run has, with changes.

    Args:
      vocabulary: Vocabulary of the run.
      options: Content of `config.caption` of the run.
      **changes: Fields of `DecodeSettings` that differ.
    """
    names = (
        "max_length",
        "num_beams",
        "length_penalty",
        "repetition_penalty",
        "no_repeat_ngram_size",
    )
    suppress = (vocabulary.pad, vocabulary.start, vocabulary.unk)
    own: dict[str, Any] = {name: options[name] for name in names} | {"suppress_tokens": suppress}
    return DecodeSettings(**own | changes)


def caption_lines(captioned: Captioned, form: str) -> list[str]:
    """Returns what is printed for an image.

    Args:
      captioned: Image and its captions.
      form: Format of the lines: "text" (nothing for a failed image) or "json" (one object).
    """
    if form == "json":
        captions = [{"caption": c.caption, "score": c.score} for c in captioned.captions]
        error = {"error": captioned.error} if captioned.error else {}
        return [json.dumps({"image": captioned.image, "captions": captions} | error)]
    alone = len(captioned.captions) < 2
    return [
        printable(f"{captioned.image}: {'' if alone else f'{c.score:.3f} '}{c.caption}")
        for c in captioned.captions
    ]


def attention_maps(
    trained: Trained,
    vocabulary: Vocabulary,
    pixels: UInt8[np.ndarray, "height width 3"],
    tokens: Int[np.ndarray, " length"] | Sequence[int],
) -> tuple[list[str], Float[np.ndarray, "words rows columns"]]:
    """Returns the words of a caption, and where in the image each was read from.

    The map of a word is the cross-attention of the position that said it, the one before it,
    averaged over layers and heads.

    Args:
      trained: Model and its preprocessing.
      vocabulary: Vocabulary of the model's tokens.
      pixels: Pixels of the image, before normalisation.
      tokens: Tokens of the caption, from `<START>` on.

    Raises:
      InputError: if the memory is no grid of several cells, or the caption is empty.
    """
    looks = attention_reader(trained, pixels.shape)
    row = np.asarray(tokens, np.int32)
    return words_with_maps(vocabulary, row, np.asarray(looks(pixels[None], row[None]))[0])


def attention_reader(
    trained: Trained, shape: tuple[int, ...]
) -> Callable[[Any, Any], Float[jax.Array, "batch words rows columns"]]:
    """Returns the compiled function from pixels and tokens to where each next token looked.

    Args:
      trained: Model and its preprocessing.
      shape: Height, width and channels of the pixels.

    Returns:
      Function (uint8 [b, height, width, 3], tokens [b, length]) -> maps [b, length - 1, rows,
      columns].

    Raises:
      InputError: if the memory is no grid of several cells.
    """
    preprocess_fn = make_preprocess(
        mean=trained.spec.preprocess.mean, std=trained.spec.preprocess.std
    )
    images = jax.eval_shape(preprocess_fn, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))
    grid = trained.model.grid_shape(images)
    check_grid(grid)

    @jax.jit
    def run(model: Any, pixels: jax.Array, tokens: jax.Array) -> jax.Array:
        weights = model.cross_attention(preprocess_fn(pixels), tokens[:, :-1])
        return jnp.mean(weights, axis=(0, 2)).reshape(len(pixels), -1, *grid)

    return functools.partial(run, trained.model)


def words_with_maps(
    vocabulary: Vocabulary,
    tokens: Int[np.ndarray, " length"],
    maps: Float[np.ndarray, "next rows columns"],
) -> tuple[list[str], Float[np.ndarray, "words rows columns"]]:
    """Returns the words of a caption, each with its map.

    Args:
      vocabulary: Vocabulary of the model's tokens.
      tokens: Tokens of the caption, from `<START>` on.
      maps: Map of each token after the first.

    Raises:
      InputError: if the caption is empty.
    """
    words = [vocabulary.decode(tokens[i : i + 1]) for i in range(1, len(tokens))]
    said = [i for i, word in enumerate(words) if word]
    if not said:
        raise InputError("The caption has no word, so there is nothing to draw.")
    return [words[i] for i in said], maps[said]
