"""Decodes images once and stores them small, in few files, which training reads faster.

For example: jaxvision prepare data/images data/small --short-side=256

IN is a folder or zip of class folders, of tar shards, tables, ArrayRecord or parquet files; or
hf:<name>, tfds:<name>. The same command goes on where it was killed. To train from OUT:
--config.data.name=array_record --config.data.path=OUT, or --config.data.name=tar.
"""

import argparse

from jaxvision.commands.arguments import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("source", metavar="IN", help="folder or file, hf:<name> or tfds:<name>")
    parser.add_argument("out", metavar="OUT", help="folder for the new files")
    parser.add_argument("--data", help="as config.data.name, where IN does not tell it")
    parser.add_argument("--train-split", default="train", help="of IN; OUT calls it train")
    parser.add_argument("--eval-split", default="test", help="of IN; OUT calls it test; none: none")
    parser.add_argument("--image-column", default="", help="as config.data.image_column")
    parser.add_argument("--label-column", default="", help="as config.data.label_column")
    parser.add_argument("--short-side", type=count, default=256, help="pixels; default: 256")
    parser.add_argument("--quality", type=count, default=90, help="of the JPEGs; default: 90")
    parser.add_argument("--shards", type=count, default=16, help="files of a split; default: 16")
    parser.add_argument("--form", choices=("array_record", "tar"), default="array_record")
    parser.add_argument("--exif-orientation", action="store_true", help="turn photos as they say")
    parser.add_argument("--workers", type=count, help="threads; default: one for each core")


def run(arguments: argparse.Namespace) -> int:
    """Writes the files; returns the exit code."""
    from jaxvision.command_line import say, show_progress
    from jaxvision.data.prepare import Preparation, prepare_split
    from jaxvision.data.sources.guess import guess_source
    from jaxvision.data.sources.open_source import open_both, open_source
    from jaxvision.data.sources.share import check_disjoint
    from jaxvision.data.threads import num_cores
    from jaxvision.errors import InputError
    from jaxvision.files import output_path

    if arguments.quality > 100:
        raise InputError(f"--quality is 1 to 100, got {arguments.quality}.")
    options = Preparation(
        short_side=arguments.short_side,
        quality=arguments.quality,
        shards=arguments.shards,
        form=arguments.form,
        exif_orientation=arguments.exif_orientation,
    )
    name, path = guess_source(arguments.source, arguments.data)
    out = output_path(arguments.out)
    show_progress(f"reading {arguments.source}")
    columns = {"image_column": arguments.image_column, "label_column": arguments.label_column}
    splits = arguments.train_split, arguments.eval_split
    if arguments.eval_split == "none":
        opened = [open_source(name, arguments.train_split, path=path, **columns)]
    else:
        check_disjoint(*splits)
        opened = open_both(name, *splits, path=path, **columns)
    workers = arguments.workers or num_cores()
    for split, source in zip(("train", "test"), filter(None, opened), strict=False):
        done = prepare_split(source, out, split, options, workers=workers)
        size = sum(path.stat().st_size for path in done.paths) / 1e6
        bad = f", {len(done.corrupt)} corrupt ones left out" if done.corrupt else ""
        show_progress()
        say(f"{split}: {done.records:,} images in {len(done.paths)} files, {size:,.1f} MB{bad}")
        for record, why in done.corrupt:
            say(f"  {record}: {why}")
    say(f"To train: --config.data.name={options.form} --config.data.path={arguments.out}")
    return 0
