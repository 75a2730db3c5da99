"""What a report shows of a run that has ended and that its folder does not hold yet."""

import importlib.util
import io
import logging
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from PIL import Image

from jaxvision import explain
from jaxvision.data.class_lists import readable
from jaxvision.data.source import CorruptImageError, Subset
from jaxvision.errors import InputError
from jaxvision.evaluation.caption import attention_maps
from jaxvision.evaluation.classifier import RESULTS_FILE, score_weights
from jaxvision.files import cannot_write, write_bytes, write_json
from jaxvision.interop.trained import Trained
from jaxvision.metrics.calibration import probabilities
from jaxvision.models.image_model import ImageModel
from jaxvision.plots.caption_pictures import attention_overlay
from jaxvision.preflight.preflight import first_samples
from jaxvision.report.page import CONTENT_FILE, FOLDER
from jaxvision.tasks.captioning import Captioning
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.features import features_step
from jaxvision.tasks.samples import look_at, outputs_of
from jaxvision.tasks.task import Weights, drawn
from jaxvision.tasks.unlabelled import Unlabelled
from jaxvision.terminal import waiting
from jaxvision.train.run import Run
from jaxvision.train.state import TrainState, count_params

MISTAKES, EXPLAINED = 24, 8  # images
CAPTIONS, WITH_MAPS = 12, 4  # images, and of them some with a map for each word
SAMPLES, MOST_OF_A_CLASS = 160, 4  # of the training split: images in all, and of a class
EMBEDDED = 1_000  # evaluation images whose features are shown in two dimensions
MOST_LOOKED_AT = 200_000  # records, for some of every class
LARGE, SMALL = 112, 64  # pixels of the longer side of a picture

logger = logging.getLogger(__name__)


def gather(run: Run, state: TrainState, workdir: pathlib.Path) -> None:
    """Writes pictures and numbers for the report into the folder of a run that has ended.

    A classifier's `evaluation.json` is written, too, as `--mode=eval` writes it. Every process
    takes part, the first one writes.

    Args:
      run: Run that has ended.
      state: State of the run after its last step.
      workdir: Folder of the run.

    Raises:
      InputError: if the folder cannot be written, or too many images are corrupt.
    """
    album = _Album(workdir)
    task, (*_, weights) = run.task, run.weights_of(state).values()
    embedding: dict[str, Any] = {}
    if isinstance(task, Classification):
        with waiting("Evaluating every class, for the report"):
            _mistakes(run, task, state, album)
        with waiting("Explaining images for the report"):
            _explanations(run, task, weights, album)
        with waiting("Reading samples of every class"):
            _samples(run, task, album)
    elif isinstance(task, Captioning) and task.data.has_images:
        with waiting("Captioning images for the report"):
            _captions(run, task, weights, album)
    elif isinstance(task, Unlabelled):
        with waiting("Projecting features for the report"):
            embedding = _embedding(run, task, weights)
    if task.data.has_images:
        with waiting("Augmenting images for the report"):
            _augmented(run, album)
    content = {
        "step": int(state.step),
        "total_steps": run.total_steps,
        "parameters": count_params(state.params),
        "sections": album.sections,
        "embedding": embedding,
    }
    album.write(f"{FOLDER}/{CONTENT_FILE}", lambda path: write_json(path, content))
    if album.error is not None:
        raise cannot_write(workdir, album.error) from album.error


class _Album:
    """Pictures in sections, written as they come by the first process.

    A section is {"title", "note", "pictures": [{"file", "title", "below", "wrong"}, ...]}. A disk
    that is full is told at the end: meanwhile the other processes wait for this one.
    """

    def __init__(self, workdir: pathlib.Path):
        self.sections: list[dict[str, Any]] = []
        self.error: OSError | None = None
        self._workdir, self._count = workdir, 0
        self.write(FOLDER, lambda path: shutil.rmtree(path, ignore_errors=True))
        self.write(FOLDER, lambda path: path.mkdir())

    def write(self, name: str, write: Callable[[pathlib.Path], object]) -> None:
        """Calls a function with the path of a file of the run, in the first process."""
        if jax.process_index() > 0 or self.error is not None:
            return
        try:
            write(self._workdir / name)
        except OSError as error:
            self.error = error

    def add(self, title: str, note: str, pictures: Sequence[dict[str, Any]]) -> None:
        """Adds a section, of pictures whose "image" is written; none without pictures."""
        side = SMALL if len(pictures) > 2 * MISTAKES else LARGE
        entries = []
        for picture in pictures:
            name, self._count = f"{self._count:04}.jpg", self._count + 1
            content = _jpeg(picture["image"], side)
            self.write(f"{FOLDER}/{name}", lambda path, content=content: write_bytes(path, content))
            entries.append({k: v for k, v in picture.items() if k != "image"} | {"file": name})
        if entries:
            self.sections.append({"title": title, "note": note, "pictures": entries})


def _jpeg(pixels: np.ndarray, side: int) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))  # never larger than it was
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _images(run: Run, source: Any, count: int) -> np.ndarray:
    """Returns the images of a small source as an evaluation sees them."""
    seen = look_at(run, source, lambda batch: batch["mask"])
    return seen.images(range(count))


def _mistakes(run: Run, task: Classification, state: TrainState, album: _Album) -> None:
    """Writes evaluation.json, and adds the wrong answers that the model was surest of."""
    results, best = score_weights(run, task, run.weights_of(state), int(state.step))
    album.write(RESULTS_FILE, lambda path: write_json(path, results))
    shares = probabilities(np.nan_to_num(best.values))
    guesses, sure = shares.argmax(axis=-1), shares.max(axis=-1)
    wrong = np.flatnonzero(guesses != best.labels)
    chosen = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    if not len(chosen):
        return
    names = [*readable(task.class_names), *map(str, range(len(task.class_names), 10**5))]
    records = best.records[chosen].tolist()
    images = _images(run, task.eval_subset(records), len(records))
    album.add(
        "The surest mistakes",
        f"{len(chosen)} of {len(wrong):,} wrong answers on {len(best.labels):,} evaluation images.",
        [
            {
                "image": image,
                "title": f"{names[guesses[i]]} {sure[i]:.0%}",
                "below": f"true: {names[best.labels[i]]}",
                "wrong": True,
            }
            for image, i in zip(images, chosen.tolist(), strict=True)
        ],
    )


def _explanations(run: Run, task: Classification, weights: Weights, album: _Album) -> None:
    """Adds evaluation images under what speaks for the model's answer in its last map."""
    if jax.process_count() > 1:  # maps are computed on one device
        return
    model: Any = nnx.merge(run.graphdef, *weights, copy=True)
    if not isinstance(model, ImageModel):
        return
    source = task.data.eval_source
    seen = look_at(run, task.eval_subset(drawn(len(source), EXPLAINED)), lambda b: b["mask"])
    good = np.flatnonzero(~seen.corrupt)
    if not good.size:
        return
    images = seen.images(seen.positions[good].tolist())
    inputs = run.preprocess_fn(jnp.asarray(images))
    shares = np.asarray(jax.jit(lambda model, x: jax.nn.softmax(model(x)))(model, inputs))
    guesses = shares.argmax(axis=-1)
    try:
        maps = np.asarray(explain.grad_cam(model, inputs, jnp.asarray(guesses)), np.float32)
    except InputError:  # a model from elsewhere that shows no stage
        return
    names = [*readable(task.class_names), *map(str, range(len(task.class_names), 10**5))]
    album.add(
        "What it looks at",
        "Grad-CAM of the model's answer, of evaluation images drawn by chance; bright is much. "
        "`jaxvision explain` has more methods, for any image and class.",
        [
            {
                "image": attention_overlay(image, cells),
                "title": f"{names[guess]} {share[guess]:.0%}",
            }
            for image, cells, guess, share in zip(images, maps, guesses, shares, strict=True)
        ],
    )


def _samples(run: Run, task: Classification, album: _Album) -> None:
    """Adds training images of every class, drawn by chance."""
    source = run.train_source
    if not len(source):
        return
    each = int(np.clip(SAMPLES // len(task.class_names), 1, MOST_OF_A_CLASS))
    found: dict[int, list[int]] = {label: [] for label in range(len(task.class_names))}
    missing = each * len(found)
    for index in np.random.default_rng(0).permutation(len(source))[:MOST_LOOKED_AT].tolist():
        try:
            records = found[source.label(index)]
        except (CorruptImageError, KeyError):
            continue
        if len(records) < each:
            records.append(index)
            missing -= 1
            if not missing:
                break
    chosen = [(label, index) for label, records in found.items() for index in records]
    images = _images(run, Subset(source, [index for _, index in chosen]), len(chosen))
    names = readable(task.class_names)
    album.add(
        "Samples of every class",
        "Of the training split, drawn by chance, as an evaluation would see them.",
        [
            {"image": image, "title": names[label]}
            for image, (label, _) in zip(images, chosen, strict=True)
        ],
    )


def _augmented(run: Run, album: _Album) -> None:
    """Adds the first training images as the model saw them."""
    images, shown = first_samples(run)
    titles = [run.task.titles(row) for row in shown]
    album.add(
        "Augmented samples",
        "Images of the first steps, as the model saw them.",
        [
            {"image": image, "title": title.replace("\\$", "$"), "below": f"step {step}"}
            for step, (row, names) in enumerate(zip(images, titles, strict=True), start=1)
            for image, title in zip(row, names, strict=True)
        ],
    )


def _embedding(run: Run, task: Unlabelled, weights: Weights) -> dict[str, Any]:
    """Returns features of evaluation images in two dimensions, {method: points}, and their classes.

    The first two principal components; where umap-learn is installed, UMAP too.
    """
    source, step = task.data.eval_source, features_step(run)
    records = drawn(len(source), EMBEDDED)
    values, places = outputs_of(
        run, task.eval_subset(records), lambda batch: step(weights, batch["image"])
    )
    points = {"PCA": principal_components(values)}
    if importlib.util.find_spec("umap") is not None:
        import umap  # pyright: ignore - the extra `umap`

        points["UMAP"] = umap.UMAP(random_state=0).fit_transform(values)
    return {
        "classes": list(readable(tuple(source.class_names))),
        "labels": [source.label(records[place]) for place in places.tolist()],
        "points": {name: np.round(xy, 4).tolist() for name, xy in points.items()},
    }


def principal_components(
    values: Float[np.ndarray, "examples width"],
) -> Float[np.ndarray, "examples 2"]:
    """Returns the first two principal components, the largest entry of each direction positive."""
    centred = np.asarray(values, np.float64) - values.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    points = centred @ (directions * signs[:, None]).T
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # a single image has one


def _captions(run: Run, task: Captioning, weights: Weights, album: _Album) -> None:
    """Adds evaluation images with the model's captions, and where it looked at each word."""
    source, (vocabulary, _) = task.data.eval_source, task.words()
    records = drawn(len(source), CAPTIONS)
    seen = task.caption(run, weights, records)
    images = seen.images(seen.positions.tolist())
    said = [vocabulary.decode(row) for row in seen.outputs]
    good = np.flatnonzero(~seen.corrupt).tolist()
    album.add(
        "Captions",
        "Of evaluation images drawn by chance, with a true caption of each.",
        [
            {
                "image": images[i],
                "title": said[i],
                "below": f"true: {source.captions(records[seen.positions[i]])[0]}",
            }
            for i in good
        ],
    )
    if jax.process_count() > 1:  # maps are computed on one device
        return
    model: Any = nnx.merge(run.graphdef, *weights, copy=True)
    trained = Trained(model, run.spec, run.eval_transform, (), "")
    for i in good[:WITH_MAPS]:
        try:
            words, maps = attention_maps(trained, vocabulary, images[i], seen.outputs[i])
        except InputError:  # one vector instead of a grid, or no word
            continue
        album.add(
            f"Where each word was read: {' '.join(words)}",
            "Cross-attention of each word, the mean of layers and heads; bright is much.",
            [
                {"image": attention_overlay(images[i], cells), "title": word}
                for word, cells in zip(words, maps, strict=True)
            ],
        )
