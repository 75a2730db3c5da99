"""What the command `explain` writes for an image, whichever kind of model explains it."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxvision import explain
from jaxvision.data.class_lists import readable
from jaxvision.data.image_files import ImageFile
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError, printable, shorten
from jaxvision.evaluation.caption import attention_maps, caption_images, open_captioner
from jaxvision.evaluation.explain import Explained, check_methods, explain_images, find_targets
from jaxvision.evaluation.predict import read_classes
from jaxvision.files import write_text
from jaxvision.interop.run_folder import is_run, open_run
from jaxvision.interop.trained import check_classifier, open_trained
from jaxvision.plots.caption_pictures import plot_attention
from jaxvision.plots.explanations import plot_explanations, plot_heads
from jaxvision.train.input import make_preprocess

CAPTION_METHODS = ("attention", "gradient")


def explainer(
    weights: dict[str, Any],
    *,
    methods: Sequence[str] | None,
    targets: str | None,
    stage: int | None,
    classes: str | None,
) -> Callable[[Sequence[ImageFile]], Iterator[Explained]]:
    """Returns the function that explains images, with everything that a user gave checked.

    Args:
      weights: Weights, as `open_trained` takes them.
      methods: Names of the methods; None: the usual ones of the kind of model.
      targets: Classes as the user named them; None: the most probable one.
      stage: Index of the stage of Grad-CAM and its kin; None: the last.
      classes: Text file of class names; None: those of the weights.

    Raises:
      InputError: if the weights cannot be read, or an argument does not fit them.
    """
    run = weights["weights"]
    if is_run(run) and open_run(run).config["task"] == "captioning":
        if targets or stage is not None or classes:
            raise InputError(
                f"{run} is a captioner, which explains its words: leave --target, --stage and"
                " --classes out."
            )
        return _caption_explainer(run, methods or CAPTION_METHODS)
    chosen = ["gradcam"] if methods is None else methods
    check_methods(chosen)
    trained = open_trained(**weights)
    check_classifier(trained, weights["weights"])
    names = read_classes(classes, trained) if classes else trained.class_names
    count = trained.model.config.num_classes
    labels = find_targets(targets, names, count) if targets is not None else ()
    options = {"methods": chosen, "targets": labels, "stage": -1 if stage is None else stage}

    def explain_all(images: Sequence[ImageFile]) -> Iterator[Explained]:
        for each in explain_images(trained, images, **options):
            shares = zip(each.targets, each.probabilities, strict=True)
            titles = tuple(f"{_name(names, label)} {share:.1%}" for label, share in shares)
            yield dataclasses.replace(each, titles=titles)

    return explain_all


def _name(names: tuple[str, ...], label: int) -> str:
    return readable(names)[label] if label < len(names) else f"class {label}"


def _caption_explainer(
    run: str, methods: Sequence[str]
) -> Callable[[Sequence[ImageFile]], Iterator[Explained]]:
    """Returns the function that explains the words of the captions of images."""
    for name in methods:
        if name not in CAPTION_METHODS:
            raise InputError(
                f"A captioner explains its words by attention and gradient, got {shorten(name)}."
            )
    trained, vocabulary, options = open_captioner(run)
    settings = DecodeSettings(
        max_length=options["max_length"],
        num_beams=options["num_beams"],
        suppress_tokens=(vocabulary.pad, vocabulary.start, vocabulary.unk),
    )
    normalise = make_preprocess(mean=trained.spec.preprocess.mean, std=trained.spec.preprocess.std)

    def explain_all(images: Sequence[ImageFile]) -> Iterator[Explained]:
        for each in caption_images(trained, vocabulary, images, settings, batch_size=1):
            if each.error or each.pixels is None:
                yield Explained(each.image, each.error)
                continue
            row = np.asarray(each.captions[0].tokens, np.int32)
            words, attended = attention_maps(trained, vocabulary, each.pixels, row)
            maps = {"attention": tuple(attended)}
            if "gradient" in methods:
                inputs = normalise(jnp.asarray(each.pixels)[None])
                rows = np.asarray(
                    explain.word_gradients(trained.model, inputs, jnp.asarray(row)[None])
                )[0]
                said = [i for i in range(1, len(row)) if vocabulary.decode(row[i : i + 1])]
                grid = attended.shape[1:]
                maps["gradient"] = tuple(rows[i - 1].reshape(grid) for i in said)
            maps = {name: maps[name] for name in methods}
            yield Explained(each.image, pixels=each.pixels, maps=maps, titles=tuple(words))

    return explain_all


def free_stems(images: Sequence[ImageFile]) -> list[str]:
    """Returns a name of files for each image: its own, with a number where it is taken."""
    stems: list[str] = []
    for image in images:
        own = stem = pathlib.PurePath(image.name).stem
        number = 2
        while stem in stems:
            stem = f"{own}-{number}"
            number += 1
        stems.append(stem)
    return stems


def write(
    explained: Explained, folder: pathlib.Path, stem: str, *, with_json: bool
) -> list[pathlib.Path]:
    """Writes the pictures of an image, and the numbers; returns the paths.

    Args:
      explained: Image and its maps.
      folder: Folder of the files, made if it is not there.
      stem: Name of the files without suffix.
      with_json: Whether the numbers are written, too.
    """
    assert explained.pixels is not None
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    if explained.targets:
        paths.append(
            plot_explanations(
                explained.pixels, explained.titles, explained.maps, folder / f"{stem}.png"
            )
        )
        if explained.heads:
            paths.append(plot_heads(explained.heads, folder / f"{stem}-heads.png"))
    else:
        for name, maps in explained.maps.items():
            path = folder / f"{stem}-{name}.png"
            paths.append(plot_attention(explained.pixels, explained.titles, np.stack(maps), path))
    if with_json:
        numbers = {
            "image": explained.image,
            "titles": explained.titles,
            "targets": explained.targets,
            "probabilities": explained.probabilities,
            "maps": {name: [x.tolist() for x in maps] for name, maps in explained.maps.items()},
            "heads": [heads.tolist() for heads in explained.heads],
        }
        write_text(folder / f"{stem}.json", json.dumps(numbers) + "\n")
        paths.append(folder / f"{stem}.json")
    return paths


def describe(explained: Explained, paths: Sequence[str | os.PathLike]) -> str:
    """Returns the line that is printed for an image.

    Args:
      explained: Image and its maps.
      paths: Files that were written.
    """
    titles = " ".join(explained.titles) if not explained.targets else ", ".join(explained.titles)
    return printable(f"{explained.image}: {titles} -> {', '.join(map(str, paths))}")
