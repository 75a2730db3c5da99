"""Looks at data before a long run: classes, sizes, corrupt images, duplicates, a contact sheet.

For example: jaxvision data data/images --sheet=classes.png

PATH is what `prepare` takes: class folders, zips, tar shards, tables, hf:<name> ...; or give a
recipe card, --config=configs/resnet50.py:folder. Every image is read and decoded once. An image of
the evaluation split is a duplicate where training has the same file, or one whose perceptual hash
differs in at most 3 of 64 bits: another size, another quality.
"""

import argparse
from typing import Any

from jaxvision.commands.arguments import count

_SHOWN = 10  # corrupt images and duplicates
_CLASSES = 40  # in the table, and rows of the contact sheet
_SAMPLES = 8  # images of a class on it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="folder or file, or hf:<name>")
    parser.add_argument("--config", help="recipe card that says where the data is, instead of PATH")
    parser.add_argument("--data", help="as config.data.name, where PATH does not tell it")
    parser.add_argument("--train-split", help="as config.data.train_split")
    parser.add_argument("--eval-split", help="as config.data.eval_split")
    parser.add_argument("--sheet", metavar="PNG", help="picture to write: images of every class")
    parser.add_argument("--workers", type=count, help="threads; default: one for each core")
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Prints what was seen; returns the exit code."""
    import functools
    import json

    from jaxvision.command_line import say, show_progress
    from jaxvision.data.decode import decode_image
    from jaxvision.data.sources.open_source import open_both
    from jaxvision.data.sources.share import check_disjoint
    from jaxvision.data.survey import duplicates, survey
    from jaxvision.data.threads import num_cores
    from jaxvision.errors import InputError
    from jaxvision.files import output_path
    from jaxvision.plots.contact_sheet import plot_contact_sheet

    sheet = output_path(arguments.sheet) if arguments.sheet else None
    if sheet is not None and not sheet.parent.is_dir():
        raise InputError(f"There is no folder {sheet.parent} to write {sheet.name} into.")
    opened, limits = _where(arguments)
    show_progress(f"reading {arguments.path or arguments.config}")
    check_disjoint(opened["train_split"], opened["eval_split"])
    train, evaluation = open_both(**opened)
    assert train is not None  # as it is wanted
    decode = functools.partial(decode_image, **limits)
    workers = arguments.workers or num_cores()
    splits = {opened["train_split"] or "train": train, opened["eval_split"] or "test": evaluation}
    seen = {
        name: survey(source, decode, what=f"the split {name}", workers=workers)
        for name, source in splits.items()
    }
    exact, near = duplicates(*seen.values()) if len(seen) == 2 else ([], [])
    result: dict[str, Any] = {
        "name": opened["name"],
        "path": opened["path"],
        "class_names": list(train.class_names),
        "splits": {
            name: _summary(seen[name], len(train.class_names)) | {"left_out": splits[name].left_out}
            for name in splits
        },
        "same_in_both": [[one.name, other.name] for one, other in exact],
        "alike_in_both": [[one.name, other.name] for one, other in near],
    }
    show_progress()
    if sheet is not None:
        plot_contact_sheet(_samples(train, next(iter(seen.values())), decode), sheet)
    say(json.dumps(result) if arguments.json else _text(result))
    return 0


def _where(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what `open_both` and `decode_image` are told."""
    from jaxvision.cards import load_card
    from jaxvision.data.sources.guess import guess_source
    from jaxvision.errors import InputError

    if (arguments.path is None) == (arguments.config is None):
        raise InputError("Give the PATH of the data, or --config=CARD: exactly one of them.")
    if arguments.config is not None:
        data = load_card(arguments.config).data.to_dict()
        names = "name path train_split eval_split image_size shapes image_column label_column"
        opened = {name: data[name] for name in names.split()}
        limits = {name: data[name] for name in ("max_pixels", "exif_orientation")}
    else:
        name, path = guess_source(arguments.path, arguments.data)
        opened = {"name": name, "path": path, "train_split": "train", "eval_split": "test"}
        limits = {}
    given = {"train_split": arguments.train_split, "eval_split": arguments.eval_split}
    return opened | {key: value for key, value in given.items() if value is not None}, limits


def _summary(seen: list, num_classes: int) -> dict[str, Any]:
    import numpy as np

    labels = np.array([each.label for each in seen if each.label >= 0], np.int64)
    sizes = {
        side: np.array([getattr(each, side) for each in seen if not each.why]) for side in _SIDES
    }
    return {
        "images": len(seen),
        "counts": np.bincount(labels, minlength=num_classes).tolist(),
        **{
            side: [int(f(some)) for f in (np.min, np.median, np.max)] if some.size else []
            for side, some in sizes.items()
        },
        "corrupt": [[each.name, each.why] for each in seen if each.why],
    }


_SIDES = ("width", "height")


def _samples(source: Any, seen: list, decode: Any) -> list[tuple[str, list]]:
    """Returns the first images of each class."""
    chosen: dict[int, list[int]] = {label: [] for label in range(len(source.class_names))}
    for index, each in enumerate(seen):
        if not each.why and len(some := chosen.get(each.label, [])) < _SAMPLES:
            some.append(index)
    rows = []
    for label, some in list(chosen.items())[:_CLASSES]:
        images = [source[index]["image"] for index in some]
        pixels = [decode(image) if isinstance(image, bytes) else image for image in images]
        rows.append((source.class_names[label], pixels))
    return rows


def _text(result: dict[str, Any]) -> str:
    """Returns the result as a table and some lines."""
    from jaxvision.profiling.table import text_table

    splits = result["splits"]
    lines = [f"{result['name']} {result['path']}".rstrip()]
    counts = zip(*(split["counts"] for split in splits.values()), strict=True)
    rows = [
        [name, *(f"{n:,}" for n in each)]
        for name, each in zip(result["class_names"], counts, strict=True)
    ]
    more = len(rows) - _CLASSES
    rows = rows[:_CLASSES] + [[f"and {more} classes more", *("" for _ in splits)]] * (more > 0)
    rows.append(["images", *(f"{split['images']:,}" for split in splits.values())])
    for side in _SIDES:
        ranges = (" / ".join(map(str, split[side])) for split in splits.values())
        rows.append([f"{side}: least / median / most", *ranges])
    rows.append(["corrupt", *(f"{len(split['corrupt']):,}" for split in splits.values())])
    lines.append(text_table(["class", *splits], rows))
    for name, split in splits.items():
        if split["left_out"]:
            lines.append(f"left out of {name} by their suffix: {split['left_out']}")
        lines += [f"corrupt: {record}: {why}" for record, why in split["corrupt"][:_SHOWN]]
    for key, what in (("same_in_both", "the same files"), ("alike_in_both", "that look alike")):
        pairs = result[key]
        lines.append(f"images of both splits {what}: {len(pairs):,}")
        lines += [f"  {one} = {other}" for one, other in pairs[:_SHOWN]]
    return "\n".join(lines)
