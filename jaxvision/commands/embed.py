"""Computes features of images once: for a search by similarity, for captioners, for other programs.

For example: jaxvision embed photos --weights=runs/mine --out=features.npz
             jaxvision embed --features=features.npz --similar=dog.jpg
"""

import argparse
import os

from jaxvision.commands.arguments import add_weights_arguments, count, weights_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("images", nargs="*", help="images, folders or zip files")
    add_weights_arguments(parser)
    parser.add_argument(
        "--kind",
        choices=["pooled", "tokens", "grid"],
        default="pooled",
        help="one vector of an image (default), all tokens, or the last map",
    )
    parser.add_argument("--out", help="a new .npz file; with --data the folder of the splits")
    parser.add_argument(
        "--dtype", choices=["float32", "float16"], default="float32", help="of --out"
    )
    parser.add_argument("--batch", type=count, default=32, help="images at once; default: 32")
    captioned = parser.add_argument_group("of captioned images, for config.data.features")
    captioned.add_argument("--data", help="as config.data.name, instead of images")
    captioned.add_argument("--path", default="", help="as config.data.path")
    captioned.add_argument("--images", dest="data_images", default="", help="as config.data.images")
    captioned.add_argument("--splits", default="train,val", help="default: train,val")
    search = parser.add_argument_group("of a search")
    search.add_argument("--similar", metavar="IMAGE", help="print the images nearest to this one")
    search.add_argument("--features", metavar="NPZ", help="search here, instead of in images")
    search.add_argument("--top", type=count, default=5, help="images that are printed; default: 5")


def run(arguments: argparse.Namespace) -> int:
    """Writes or searches features; returns 2 if an image could not be used."""
    _check(arguments)
    if arguments.features:
        return _search_file(arguments)
    return _embed_captioned(arguments) if arguments.data else _embed_images(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Raises InputError where the arguments do not go together, before anything is read."""
    from jaxvision.errors import InputError
    from jaxvision.files import output_path

    given = (arguments.images, arguments.data, arguments.features)
    if sum(map(bool, given)) != 1:
        raise InputError("Give images, or --data of captioned images, or --features to search in.")
    if arguments.features:
        if not arguments.similar or arguments.out:
            raise InputError("--features is searched: give --similar=IMAGE, and no --out.")
        return
    weights_arguments(arguments)
    if not arguments.out and not arguments.similar:
        raise InputError("Give --out for the features, or --similar=IMAGE to search.")
    if arguments.similar and (arguments.data or arguments.kind != "pooled"):
        raise InputError("--similar searches in images or --features, with --kind=pooled.")
    if arguments.out and (output_path(arguments.out).suffix == ".npz") == bool(arguments.data):
        raise InputError(
            f"--out is a .npz file for images and a folder for --data, got {arguments.out}."
        )


def _embed_images(arguments: argparse.Namespace) -> int:
    import numpy as np

    from jaxvision.command_line import fail, say, show_progress
    from jaxvision.data.image_files import find_images
    from jaxvision.errors import InputError
    from jaxvision.evaluation.embed import (
        FeatureFile,
        describe_encoder,
        embed,
        open_encoder,
        save_features,
    )

    images = [image for path in arguments.images for image in find_images(path)]
    if arguments.similar:
        find_images(arguments.similar)
    opened = weights_arguments(arguments)
    show_progress(f"reading {opened['weights']}")
    encoder = open_encoder(**opened)
    names, rows, failed = [], [], 0
    embedded = embed(encoder, images, kind=arguments.kind, batch_size=arguments.batch)
    for number, image in enumerate(embedded, start=1):
        show_progress()
        if image.features is None:
            failed += 1
            fail(str(image.error))
        else:
            names.append(image.image)
            rows.append(image.features)
        show_progress(f"{number} of {len(images)} images")
    show_progress()
    if not rows:
        raise InputError("None of the images can be used.")
    description = describe_encoder(encoder, opened["weights"], arguments.kind)
    file = FeatureFile(tuple(names), np.stack(rows), description)
    if arguments.out:
        save_features(arguments.out, file, dtype=arguments.dtype)
        say(f"wrote {arguments.out}: features {list(file.features.shape)} of {encoder.spec.name}")
    if arguments.similar:
        failed += _search(arguments, encoder, file)
    return 2 if failed else 0


def _embed_captioned(arguments: argparse.Namespace) -> int:
    from jaxvision.command_line import fail, say, show_progress
    from jaxvision.data.captions.open_captions import open_caption_source
    from jaxvision.errors import InputError
    from jaxvision.evaluation.embed import (
        captioned_images,
        describe_encoder,
        embed,
        image_side,
        open_encoder,
        save_captioned,
    )

    opened = weights_arguments(arguments)
    show_progress(f"reading {opened['weights']}")
    encoder = open_encoder(**opened)
    description = describe_encoder(encoder, opened["weights"], arguments.kind)
    if arguments.data == "cs231n_coco":
        raise InputError("cs231n_coco has features instead of images: train on those.")
    sources = {
        split: open_caption_source(
            arguments.data,
            split,
            path=arguments.path,
            images=arguments.data_images,
            image_size=image_side(encoder),
        )
        for split in arguments.splits.split(",")
    }
    errors: list[str] = []

    def watched(split: str):
        images = captioned_images(sources[split])
        embedded = embed(encoder, images, kind=arguments.kind, batch_size=arguments.batch)
        for number, image in enumerate(embedded, start=1):
            yield image
            show_progress(f"{split}: {number} of {len(images)} images")

    def on_error(error: str) -> None:
        show_progress()
        fail(error)
        errors.append(error)

    for split, source in sources.items():
        folder = os.path.join(arguments.out, split)
        save_captioned(
            folder, watched(split), source, description, dtype=arguments.dtype, on_error=on_error
        )
        show_progress()
        say(f"wrote {folder}: features of {len(source)} images")
    return 2 if errors else 0


def _search_file(arguments: argparse.Namespace) -> int:
    from jaxvision.command_line import show_progress
    from jaxvision.errors import InputError
    from jaxvision.evaluation.embed import read_features, reopen_encoder

    file = read_features(arguments.features)
    if file.features.ndim != 2:
        raise InputError(
            f"{arguments.features} has more than one vector of an image: a search takes features "
            "of --kind=pooled."
        )
    show_progress("reading the weights")
    encoder = reopen_encoder(
        file.encoder, where=arguments.features, option="--weights", weights=arguments.weights
    )
    return 2 if _search(arguments, encoder, file) else 0


def _search(arguments: argparse.Namespace, encoder, file) -> int:
    """Prints the nearest images of each one searched for; returns how many cannot be used."""
    from jaxvision.command_line import fail, say, show_progress
    from jaxvision.data.image_files import find_images
    from jaxvision.errors import printable
    from jaxvision.evaluation.embed import embed, nearest

    failed = 0
    queries = find_images(arguments.similar)
    for image in embed(encoder, queries, kind="pooled", batch_size=arguments.batch):
        show_progress()
        if image.features is None:
            failed += 1
            fail(str(image.error))
            continue
        say(printable(f"{image.image}:"))
        for index, similarity in nearest(image.features, file.features, arguments.top):
            say(printable(f"  {similarity:.4f} {file.names[index]}"))
    return failed
