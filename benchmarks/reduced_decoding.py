"""What --config.data.reduced_decoding changes and saves, on large photos.

Command: python benchmarks/reduced_decoding.py [--crops=20] [PHOTO.jpg ...]
Without photos, one of scikit-learn's is enlarged to 12 megapixels, with the grain of a sensor.
"""

import argparse
import io
import pathlib
import time

import numpy as np
import PIL.Image

from jaxvision.data.augment.crops import RandomResizedCrop, Resize
from jaxvision.data.decode import decode_image, open_photo

SIZE = (224, 224)


def some_photo() -> bytes:
    """Returns a JPEG of 4000 x 3000 pixels."""
    from sklearn.datasets import load_sample_image

    picture = PIL.Image.fromarray(load_sample_image("china.jpg"))
    pixels = np.asarray(picture.resize((4000, 3000), PIL.Image.Resampling.BICUBIC), np.float32)
    pixels += np.random.default_rng(0).normal(0, 4, pixels.shape)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def main() -> None:
    """Prints a line for each photo."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="*", type=pathlib.Path)
    parser.add_argument("--crops", type=int, default=20)
    arguments = parser.parse_args()
    photos = {path.name: path.read_bytes() for path in arguments.photos} or {"a": some_photo()}
    crop = RandomResizedCrop(SIZE)
    for name, data in photos.items():
        full = decode_image(data)
        times, factors = {"full": [], "reduced": []}, []
        between, to_exact = [], {"full": [], "reduced": []}
        for seed in range(arguments.crops):
            start = time.thread_time()
            crop(decode_image(data), np.random.default_rng(seed))
            times["full"].append(time.thread_time() - start)
            start = time.thread_time()
            photo = open_photo(data, large=2 * min(SIZE))
            reduced = crop(photo, np.random.default_rng(seed))
            times["reduced"].append(time.thread_time() - start)
            # The same part of all pixels: its edges are those of reduced pixels.
            top, left, height, width = crop.draw(*full.shape[:2], np.random.default_rng(seed))
            ratio = min(height // SIZE[0], width // SIZE[1])
            factor = next(factor for factor in (8, 4, 2, 1) if factor <= max(ratio, 1))
            factors.append(factor)
            top, left, height, width = (x // factor * factor for x in (top, left, height, width))
            part = full[top : top + height, left : left + width]
            whole = RandomResizedCrop(SIZE, (1.0, 1.0), (width / height,) * 2)(
                part, np.random.default_rng(0)
            )
            exact = Resize(SIZE)(part).astype(int)
            between.append(np.abs(reduced.astype(int) - whole))
            for key, image in (("full", whole), ("reduced", reduced)):
                to_exact[key].append(np.abs(image - exact))
        ms = {key: 1e3 * float(np.median(x)) for key, x in times.items()}
        print(
            f"{name}: {full.shape[1]} x {full.shape[0]} pixels, {arguments.crops} crops, sizes "
            f"divided by {np.mean(factors):.1f}: {ms['full']:.1f} -> {ms['reduced']:.1f} ms; "
            f"difference of the two {np.mean(between):.2f} grey levels, at most {np.max(between)};"
            f" to an antialiased resize {np.mean(to_exact['full']):.2f} and "
            f"{np.mean(to_exact['reduced']):.2f}"
        )


if __name__ == "__main__":
    main()
