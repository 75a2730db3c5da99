"""Image bytes to pixels: the only place of the project that decodes."""

import io

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from jaxvision.data.source import CorruptImageError

# Each decoding thread does one image; OpenCV's own threads on top would only get in their way.
cv2.setNumThreads(0)

MAX_PIXELS = 89_478_485  # Pillow's own limit, at which it starts to warn
_OPENCV_READS = {("JPEG", "RGB"), ("JPEG", "L"), ("WEBP", "RGB")}
_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the RGB pixels that torchvision's ImageFolder would see.

    JPEG and WebP are decoded by OpenCV, which gives the very pixels of Pillow in half to two
    thirds of its time; Pillow does the rest. What is done with unusual images:

    - EXIF orientation is ignored, as torchvision and timm do.
    - Alpha is dropped, not blended: the colour under a transparent pixel shows.
    - Greyscale is repeated, palettes are looked up, CMYK is converted by Pillow's formula.
    - 16-bit greyscale keeps its high byte, as Pillow does for 16-bit colour.
    - Of an animation, the first frame counts.

    Args:
      data: Bytes of an encoded image file.
      max_pixels: Largest number of pixels of an image; larger ones are refused from their header
        alone, before any memory is taken.

    Raises:
      CorruptImageError: if the data is cut short, is no image, is larger than `max_pixels`, or has
        32 bits a channel.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:  # reads the header only
            return _decode(image, data, max_pixels)
    except (CorruptImageError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's formats raises another class
        raise CorruptImageError(
            f"it cannot be decoded ({type(error).__name__}: {error})"
        ) from error


def _decode(image: PIL.Image.Image, data: bytes, max_pixels: int) -> np.ndarray:
    width, height = image.size
    if width * height > max_pixels:
        raise CorruptImageError(
            f"it has {width} x {height} pixels, more than config.data.max_pixels = {max_pixels:,}"
        )
    if (image.format, image.mode) in _OPENCV_READS:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS)
        if pixels is None:  # OpenCV's way of saying that the file is cut short
            raise CorruptImageError("its data is cut short or broken")
        return pixels
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise CorruptImageError(
            "it has 32 bits a channel, for which no scale is known; save 8 bits"
        )
    return np.asarray(image.convert("RGB"))
