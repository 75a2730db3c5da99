import io

import numpy as np
import PIL.Image
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def photo():
    """Returns a function from a size to a smooth, colourful image, which JPEG hardly changes."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC)
        return np.array(picture)

    return make


@pytest.fixture
def encode():
    """Returns a function from pixels (or a Pillow image) and a format to file bytes."""

    def make(image, file_format: str = "JPEG", **options) -> bytes:
        picture = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
        file = io.BytesIO()
        picture.save(file, file_format, **options)
        return file.getvalue()

    return make


@pytest.fixture
def folder(tmp_path, photo, encode):
    """Two splits on disk: train with 3 + 2 images of cat and dog, test with one dog."""
    root = tmp_path / "pets"
    for seed, name in enumerate(
        (
            "train/cat/b.jpg",
            "train/cat/a.JPEG",
            "train/cat/deep/er/c.jpg",
            "train/dog/d.jpg",
            "train/dog/e.jpg",
            "test/dog/f.jpg",
        )
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(12, 10, seed)))
    return root
