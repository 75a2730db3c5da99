"""Image bytes to pixels: the only place of the project that decodes."""

import dataclasses
import importlib
import io
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.TiffImagePlugin
from jaxtyping import UInt8

from jaxvision.data.source import HAS_HEIF, CorruptImageError

# Each decoding thread does one image; OpenCV's own threads on top would only get in their way.
cv2.setNumThreads(0)

# `decode_image` with its options, or `open_photo` where a transform takes what that returns
Decode = Callable[[bytes], Any]

MAX_PIXELS = 89_478_485  # Pillow's own limit, at which it starts to warn
# Pillow looks at the content, not at the name, and would start Ghostscript for PostScript that is
# called x.jpg: of its formats, only those of pixels. AVIF and HEIF depend on what is installed.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
PIL.Image.init()
if HAS_HEIF:
    importlib.import_module("pillow_heif").register_heif_opener()
# Each scan of a JPEG costs the time of the whole image, and no more than six bytes of the file.
# Encoders write ten; cjpeg can be told to write a hundred, and libtiff refuses more, too.
_MAX_JPEG_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")  # of a segment, not of a restart
_JPEG_FRAME = struct.Struct(">BHHB")
# Markers of a header that say nothing of how to read it: tables, application data, comment.
_JPEG_HEADER = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
# How the pixels of each EXIF orientation become those of an upright image.
_TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
_OPENCV_READS = {("JPEG", "RGB"), ("JPEG", "L"), ("WEBP", "RGB")}
_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCING_FLAGS = {  # by what they divide the size by, the largest first
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, exif_orientation: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the RGB pixels that torchvision's ImageFolder would see.

    JPEG and WebP are decoded by OpenCV, which gives the very pixels of Pillow in half to two
    thirds of its time; Pillow does the rest. What is done with unusual images:

    - EXIF orientation is ignored, as torchvision and timm do, unless it is asked for.
    - Alpha is dropped, not blended: the colour under a transparent pixel shows.
    - Greyscale is repeated, palettes are looked up, CMYK is converted by Pillow's formula.
    - 16-bit greyscale keeps its high byte, as Pillow does for 16-bit colour.
    - Of an animation, the first frame counts.

    Args:
      data: Bytes of an encoded image file.
      max_pixels: Largest number of pixels of an image or a tile of it; larger ones are refused
        from their header alone, before any memory is taken.
      exif_orientation: Whether an image is turned and mirrored as its EXIF data say, which is how
        phones store photos and how viewers show them.

    Raises:
      CorruptImageError: if the data is cut short, is no image, is larger than `max_pixels`, is a
        JPEG of more than 100 scans, or has 32 bits a channel.
    """
    if not data:
        raise CorruptImageError("it is empty")
    if _plain_jpeg_size(data, max_pixels, exif_orientation) is not None:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS)
        if pixels is not None:
            return pixels  # otherwise Pillow says what is wrong with it
    formats = [name for name in _FORMATS if name in PIL.Image.OPEN]
    try:
        with PIL.Image.open(io.BytesIO(data), formats=formats) as image:  # reads the header only
            pixels = _decode(image, data, max_pixels)
            if exif_orientation:
                turn = _TURNS.get(image.getexif().get(PIL.ExifTags.Base.Orientation, 1))
                pixels = pixels if turn is None else np.ascontiguousarray(turn(pixels))
            return pixels
    except (CorruptImageError, MemoryError):
        raise
    except PIL.UnidentifiedImageError as error:
        raise CorruptImageError(f"it is of none of the formats {', '.join(formats)}") from error
    except Exception as error:  # each of Pillow's formats raises another class
        raise CorruptImageError(
            f"it cannot be decoded ({type(error).__name__}: {error})"
        ) from error


@dataclasses.dataclass(frozen=True)
class Photo:
    """A large JPEG that is not decoded yet: a crop of it may need few of its pixels.

    Attributes:
      data: Bytes of the file.
      shape: Height, width and 3.
      max_pixels: Largest number of pixels of an image, see `decode_image`.
    """

    data: bytes
    shape: tuple[int, int, int]
    max_pixels: int

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels, once it is decoded."""
        return math.prod(self.shape)

    def reduced(self, most: int) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
        """Returns the image at a fraction of its size, and the whole number that it is divided by.

        The decoder leaves out the high frequencies of each 8 x 8 pixels, in place of computing and
        averaging all of them; an incomplete pixel at the end is kept.

        Args:
          most: Largest number that the size may be divided by; 1, 2, 4 or 8 is taken.

        Raises:
          CorruptImageError: as `decode_image`.
        """
        factor = next(factor for factor in _REDUCING_FLAGS if factor <= max(most, 1))
        pixels = None
        if factor > 1:
            flags = _REDUCING_FLAGS[factor] | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(self.data, np.uint8), flags)
        if pixels is None:  # then this says what is wrong with it
            return decode_image(self.data, max_pixels=self.max_pixels), 1
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), factor


def open_photo(
    data: bytes, *, large: int, max_pixels: int = MAX_PIXELS, exif_orientation: bool = False
) -> UInt8[np.ndarray, "height width 3"] | Photo:
    """Returns what `decode_image` does, but a JPEG of some size undecoded.

    Args:
      data: Bytes of an encoded image file.
      large: Pixels of the short side from which on a JPEG is left as it is.
      max_pixels: Largest number of pixels of an image, see `decode_image`.
      exif_orientation: Whether images are turned, see `decode_image`; those that have EXIF data are
        decoded then.

    Raises:
      CorruptImageError: as `decode_image`.
    """
    size = _plain_jpeg_size(data, max_pixels, exif_orientation)
    if size is not None and min(size) >= large:
        return Photo(data, (*size, 3), max_pixels)
    return decode_image(data, max_pixels=max_pixels, exif_orientation=exif_orientation)


def is_turned(data: bytes) -> bool:
    """Returns whether the EXIF data of a readable image file say that its pixels are turned."""
    with PIL.Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(PIL.ExifTags.Base.Orientation, 1) in _TURNS


def _plain_jpeg_size(
    data: bytes, max_pixels: int, exif_orientation: bool
) -> tuple[int, int] | None:
    """Returns height and width of a JPEG that OpenCV gets after a glance at its header, else None.

    It does where the image is baseline, grey or of three channels, with all of them in one scan:
    nearly every photo. Pillow's look at the header and the search for scans cost Python a tenth of
    a millisecond, in which no other thread runs.
    """
    if data[:2] != b"\xff\xd8":
        return None
    place, height, width, channels = 2, 0, 0, 0
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], data[place + 2] << 8 | data[place + 3]
        if marker == 0xDA:  # start of scan, with the number of its channels
            return (height, width) if 0 < channels == data[place + 4] else None
        if marker in (0xC0, 0xC1):  # baseline: bits, height, width, channels
            bits, height, width, channels = _JPEG_FRAME.unpack_from(data, place + 4)
            if bits != 8 or channels not in (1, 3) or not 0 < height * width <= max_pixels:
                return None
        elif marker == 0xE1 and exif_orientation:
            return None
        elif marker == 0xE2 and data[place + 4 : place + 8] == b"MPF\0":  # several images
            return None
        elif marker not in _JPEG_HEADER:
            return None
        place += 2 + length
    return None


def _decode(image: PIL.Image.Image, data: bytes, max_pixels: int) -> np.ndarray:
    sizes = {"": image.size}
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        sizes["tiles of "] = tuple(image.tag_v2.get(x, 0) for x in (_TILE_WIDTH, _TILE_LENGTH))
    for part, (width, height) in sizes.items():
        if width * height > max_pixels:
            raise CorruptImageError(
                f"it has {part}{width} x {height} pixels, more than max_pixels = {max_pixels:,}"
            )
    if image.format in ("JPEG", "MPO") and (scans := _num_scans(data)) > _MAX_JPEG_SCANS:
        raise CorruptImageError(
            f"it is a JPEG of {scans} scans, more than the {_MAX_JPEG_SCANS} that are read"
        )
    if (image.format, image.mode) in _OPENCV_READS:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS)
        if pixels is None:  # OpenCV's way of saying that the file is cut short
            raise CorruptImageError("its data is cut short or broken")
        return pixels
    return rgb_pixels(image)


def rgb_pixels(image: PIL.Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the RGB pixels of an image of Pillow, as `decode_image` does.

    Raises:
      CorruptImageError: if it has 32 bits a channel.
    """
    # Pillow gives 16-bit PGM 32 bits, but keeps the scale.
    if image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise CorruptImageError(
            "it has 32 bits a channel, for which no scale is known; save 8 bits"
        )
    return np.asarray(image.convert("RGB"))


def _num_scans(jpeg: bytes) -> int:
    """Returns the number of scans of a JPEG; of few, at most that number."""
    if (most := jpeg.count(b"\xff\xda")) <= _MAX_JPEG_SCANS:
        return most  # those in metadata may be others, but there is no need to know
    place, scans = 2, 0
    while (marker := _JPEG_MARKER.search(jpeg, place)) and marker[1] != b"\xd9":  # end of image
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2])
        place = marker.end() + length
        scans += marker[1] == b"\xda"  # start of scan
    return scans
