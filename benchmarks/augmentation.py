"""CPU time of augmenting an image, beside torchvision.transforms.v2 on the same decoded images.

`python benchmarks/augmentation.py [--zip=DATA/imagenet100.zip]`: a random resized crop to 224
pixels, a flip and RandAugment(2, 9), to uint8; one thread each. torchvision gets what it wants,
either PIL images or tensors. Then the presets of config.augment, without a peer.
"""

import argparse
import dataclasses
import os

import numpy as np
import peers  # noqa: F401
import timing
import torch
from PIL import Image
from torchvision.transforms import v2

from jaxvision.data.augment.presets import PRESETS
from jaxvision.data.augment.transforms import train_transform
from jaxvision.data.decode import decode_image
from jaxvision.data.sources.open_source import open_source
from jaxvision.options.augment import AugmentOptions

SIZE, COUNT = 224, 64


def decoded(path: str) -> list[np.ndarray]:
    """Returns photographs, or noise of their usual sizes and some smoothness."""
    if path:
        folder, name = os.path.split(path)
        source = open_source("folder", path=folder, split=name)
        return [decode_image(bytes(source[i]["image"])) for i in range(min(COUNT, len(source)))]
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (COUNT, 24, 32, 3), dtype=np.uint8)
    sizes = [(500, 375), (375, 500), (500, 333)]
    return [
        np.array(Image.fromarray(image).resize(sizes[i % 3], Image.Resampling.BICUBIC))
        for i, image in enumerate(small)
    ]


def peer(*last):
    """Returns torchvision's chain."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=2, magnitude=9),
            *last,
        ]
    )


def main():
    """Prints milliseconds per image and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zip", default="")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = decoded(options.zip)
    pictures = [Image.fromarray(image) for image in images]
    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]
    rng = np.random.default_rng(0)

    def ours(transform):
        return lambda: [transform(image, rng) for image in images]

    def theirs(transform, inputs):
        return lambda: [transform(image) for image in inputs]

    drawn = AugmentOptions(rand_augment_layers=2)
    exact = train_transform(SIZE, dataclasses.replace(drawn, crop_antialias=True))
    timings = timing.compare(
        {
            "jaxvision": ours(train_transform(SIZE, drawn)),
            "jaxvision, antialiased crop": ours(exact),
            "v2 on PIL": theirs(peer(v2.PILToTensor()), pictures),
            "v2 on tensors": theirs(peer(), tensors),
        },
        blocks=options.blocks,
        seconds=0.5,
        warm=1,
    )
    print(timing.machine())
    number = len(images)
    for name, result in timings.items():
        print(f"{name}: {1e3 * result.median / number:.3f} ms; images/s: {result.rate(number)}")
    best = min(timings["v2 on PIL"].median, timings["v2 on tensors"].median)
    print(
        f"augmentation: {best / timings['jaxvision'].median:.2f}x, with antialiased crop "
        f"{best / timings['jaxvision, antialiased crop'].median:.2f}x of the best torchvision line"
    )
    presets = timing.compare(
        {name: ours(train_transform(SIZE, AugmentOptions(preset=name))) for name in PRESETS},
        blocks=3,
        seconds=0.5,
        warm=1,
    )
    for name, result in presets.items():
        print(f"preset {name}: {1e3 * result.median / number:.3f} ms")


if __name__ == "__main__":
    main()
