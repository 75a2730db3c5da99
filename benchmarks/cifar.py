"""CIFAR-10 as zips of images, and parts of it, for the measurements on real images.

A part is a zip of its own, and a run on it is `config.data.name=folder`.
"""

import json
import logging
import pathlib
import statistics
import sys
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # configs are not installed

Images = dict[str, list[tuple[pathlib.Path, str]]]


def read_images(paths) -> Images:
    """Returns {class: [(zip, name in it), ...]} of zips of folders, one a class."""
    images: Images = {}
    paths = sorted(paths)
    if not paths or not all(path.exists() for path in paths):
        sys.exit(
            "--data must hold train_*.zip, val.zip and test.zip of images, one folder a class."
        )
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                images.setdefault(name.split("/")[0], []).append((path, name))
    return images


def write_part(path, images: Images, count: int = 0) -> None:
    """Writes a zip of `count` random images, the same number of each class; 0: of all."""
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as part:
        for members in images.values():
            chosen = members
            if count:
                places = generator.permutation(len(members))[: count // len(images)]
                chosen = [members[i] for i in sorted(places)]
            for source in sorted({zip_path for zip_path, _ in chosen}):
                with zipfile.ZipFile(source) as archive:
                    for zip_path, name in chosen:
                        if zip_path == source:
                            part.writestr(name, archive.read(name))


def accuracy(config, workdir, metric: str = "eval/accuracy") -> float:
    """Trains, unless the folder holds the finished run, and returns its last accuracy in %."""
    from jaxvision.options.options import read_options
    from jaxvision.train.loop import train
    from jaxvision.train.setup import make_run

    logging.getLogger().setLevel(logging.WARNING)
    train(make_run(read_options(config)), workdir)
    lines = [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").open()]
    return 100 * [line[metric] for line in lines if metric in line][-1]


def mean_and_spread(values) -> str:
    """Returns the mean of runs that differ by their seed, and their standard deviation."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
