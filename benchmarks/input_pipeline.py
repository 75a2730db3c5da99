"""Images per second of the input pipeline beside torch's DataLoader with torchvision's transforms.

`python benchmarks/input_pipeline.py --zip=DATA/imagenet100.zip`: JPEGs from one zip, a random
resized crop to 224 pixels and a flip, uint8 batches of 64; `prepared` reads what `jaxvision
prepare` made of them: short side 256, quality 90, ArrayRecord. With `--overhead` instead what an
image costs a process beside the work that any number of cores share, see input_overhead.py; with
`--processor_time` what it costs all cores together, which other work on the machine disturbs less.
"""

import argparse
import io
import itertools
import multiprocessing
import os
import pathlib
import random
import tempfile
import time
import zipfile

import input_overhead
import timing
from PIL import Image

from jaxvision.data.augment.transforms import train_transform
from jaxvision.data.pipeline import train_dataset
from jaxvision.data.prepare import Preparation, prepare_split
from jaxvision.data.sources.open_source import open_source

BATCH, SIZE, BATCHES = 64, 224, 10


class ZipImages:
    """What a torch user would write; each worker opens the zip itself."""

    def __init__(self, path):
        from torchvision.transforms import v2

        self.path = path
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        self.names = sorted(n for n in names if n.lower().endswith((".jpg", ".jpeg")))
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(SIZE, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
            ]
        )
        self.archive = None

    def __len__(self):
        return 10**9

    def __getitem__(self, index):
        self.archive = self.archive or zipfile.ZipFile(self.path)
        name = self.names[random.Random(index).randrange(len(self.names))]
        image = Image.open(io.BytesIO(self.archive.read(name))).convert("RGB")
        return self.transform(image), 0


def main():
    """Prints images per second and the ratio to torch's, or the overhead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zip", required=True)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--processor_time", action="store_true")
    parser.add_argument("--num_threads", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--num_workers", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    print(timing.machine())
    folder, name = os.path.split(options.zip)
    source = open_source("folder", path=folder, split=name)
    if options.overhead:
        input_overhead.report(source, options.num_threads, options.num_workers)
    elif options.processor_time:
        report_processor_time(source, options.zip, options.blocks)
    else:
        compare(source, options.zip, options.blocks)


def report_processor_time(source, path, num_blocks):
    """Prints the processor time of an image: ours, prepared, and torch's with its workers."""
    import peers  # noqa: F401
    import torch

    with tempfile.TemporaryDirectory() as folder:
        start = used()
        prepare_split(source, pathlib.Path(folder), "train", Preparation(), workers=2)
        print(f"to prepare an image: {(used() - start) / len(source) * 1e3:.2f} ms of a core")
        small = open_source("array_record", "train", path=folder)
        costs = {"jaxvision": [], "prepared": [], "DataLoader": []}
        for _ in range(num_blocks):
            for name, each in (("jaxvision", source), ("prepared", small), ("DataLoader", None)):
                data = torch.utils.data.DataLoader(ZipImages(path), batch_size=BATCH, num_workers=2)
                if each is not None:
                    data = train_dataset(
                        each, transform=train_transform(SIZE), batch_size=BATCH, seed=0,
                        prefetch_examples=2 * BATCH,
                    )  # fmt: skip
                batches = iter(data)
                list(itertools.islice(batches, 5))
                start = used()
                list(itertools.islice(batches, BATCHES))
                costs[name].append((used() - start) / (BATCHES * BATCH) * 1e3)
                if each is not None:
                    data.close()
                del batches, data
    for name, each in costs.items():
        print(f"{name}: {min(each):.2f} ms of a core an image [{min(each):.2f}-{max(each):.2f}]")


def used():
    """Returns the processor seconds of this process and of its children that live."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def compare(source, path, num_blocks):
    """Prints images per second beside torch's."""
    import peers  # noqa: F401
    import torch

    cores = len(os.sched_getaffinity(0))
    loader = torch.utils.data.DataLoader(
        ZipImages(path), batch_size=BATCH, num_workers=cores, persistent_workers=True
    )
    with tempfile.TemporaryDirectory() as folder:
        prepare_split(source, pathlib.Path(folder), "train", Preparation(), workers=cores)
        small = open_source("array_record", "train", path=folder)
        sources = {"jaxvision": source, "prepared": small}
        data = {
            name: train_dataset(each, transform=train_transform(SIZE), batch_size=BATCH, seed=0)
            for name, each in sources.items()
        }
        running = {name: iter(each) for name, each in (data | {"DataLoader": loader}).items()}
        timings = timing.compare(
            {
                name: lambda batches=batches: list(itertools.islice(batches, BATCHES))
                for name, batches in running.items()
            },
            blocks=num_blocks,
            seconds=2.0,
            warm=1,
        )
        for each in data.values():
            each.close()
    peer = timings["DataLoader"].median
    ratios = ", ".join(f"{name} {peer / timings[name].median:.2f}x" for name in data)
    rates = ", ".join(f"{n} {t.rate(BATCH * BATCHES)}" for n, t in timings.items())
    print(f"input: {ratios}; images/s: {rates}")


if __name__ == "__main__":
    main()
