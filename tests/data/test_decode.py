import importlib.util
import io
import re

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from bad_files import tiff

from jaxvision.data import decode
from jaxvision.data.decode import Photo, decode_image, open_photo
from jaxvision.data.source import IMAGE_SUFFIXES, CorruptImageError


def pillow(data: bytes) -> np.ndarray:
    """Decodes as torchvision's ImageFolder does."""
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    "file_format, mode, options",
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 60}),
        ("WEBP", "RGBA", {"quality": 60}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
    ],
)
def test_same_pixels_as_pillow(photo, encode, rng, file_format, mode, options):
    picture = PIL.Image.fromarray(photo(37, 53))
    picture.putalpha(PIL.Image.fromarray(rng.integers(0, 256, (37, 53), dtype=np.uint8)))
    if mode != "RGBA":
        picture = picture.convert("LA" if mode == "LA" else "RGB").convert(mode)
    data = encode(picture, file_format, **options)
    pixels = decode_image(data)
    np.testing.assert_array_equal(pixels, pillow(data))
    assert pixels.shape == (37, 53, 3) and pixels.dtype == np.uint8
    assert pixels.std() > 20


@pytest.mark.parametrize("file_format", ["AVIF", "JPEG2000", "MPO", "PPM"])
def test_every_format_of_pixels_is_read(photo, encode, file_format):
    if file_format == "AVIF" and file_format not in PIL.Image.OPEN:
        pytest.skip("this Pillow cannot read AVIF")
    data = encode(photo(37, 53), file_format)
    np.testing.assert_array_equal(decode_image(data), pillow(data))


@pytest.mark.parametrize("file_format", ["EPS", "ICNS", "PCX", "TGA", "DDS"])
def test_other_formats_are_never_opened(photo, encode, file_format, monkeypatch):
    def start(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", start)
    with pytest.raises(CorruptImageError, match="it is of none of the formats JPEG, PNG, WEBP"):
        decode_image(encode(photo(32, 32), file_format))


def test_exif_orientation_is_ignored(photo, encode):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    pixels = photo(20, 30)
    turned = decode_image(encode(pixels, exif=exif))
    np.testing.assert_array_equal(turned, decode_image(encode(pixels)))
    assert turned.shape == (20, 30, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_turns_as_pillow_does(photo, encode, orientation, file_format):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(20, 30), file_format, exif=exif)
    with PIL.Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(PIL.ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(data, exif_orientation=True), expected)


def test_colours_are_in_the_order_red_green_blue(encode):
    for file_format in ("JPEG", "PNG", "WEBP"):
        red = np.zeros((16, 16, 3), np.uint8)
        red[..., 0] = 200
        assert decode_image(encode(red, file_format)).mean((0, 1)).argmax() == 0


def test_transparent_palette_and_alpha_show_the_colour_below(encode):
    picture = PIL.Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    np.testing.assert_array_equal(
        decode_image(encode(picture, "PNG")), np.full((4, 4, 3), (10, 20, 30))
    )


def test_sixteen_bits_keep_the_high_byte(encode):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode_image(encode(PIL.Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))
    pgm = b"P5 8 8 65535\n" + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode_image(pgm), pixels)
    with pytest.raises(CorruptImageError, match="32 bits"):
        decode_image(encode(PIL.Image.fromarray(values.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_raise(photo, encode, file_format, share):
    data = encode(photo(60, 80), file_format)
    with pytest.raises(CorruptImageError):
        decode_image(data[: int(len(data) * share)])


def test_a_jpeg_may_not_lack_its_last_rows(photo, encode):
    data = encode(photo(60, 80), "JPEG", quality=95)
    for missing in (2, 10, 100):
        with pytest.raises(CorruptImageError):
            decode_image(data[:-missing])
    png = encode(photo(60, 80), "PNG")
    with pytest.raises(CorruptImageError):
        decode_image(png[: len(png) // 2])


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP"])
def test_garbage_raises(data):
    with pytest.raises(CorruptImageError):
        decode_image(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_from_the_header(encode):
    with pytest.raises(CorruptImageError, match=r"40 x 30 pixels, more than .*max_pixels = 1,000"):
        decode_image(encode(np.zeros((30, 40, 3), np.uint8)), max_pixels=1_000)
    assert decode_image(encode(np.zeros((30, 40, 3), np.uint8)), max_pixels=1_200) is not None
    bomb = encode(PIL.Image.new("1", (12_000, 12_000)), "PNG")  # 144 million pixels in 20 kB
    assert len(bomb) < 50_000
    with pytest.raises(CorruptImageError):
        decode_image(bomb)


def test_a_tile_is_no_larger_than_an_image_may_be():
    assert decode_image(tiff(16)).shape == (16, 16, 3)
    with pytest.raises(CorruptImageError, match="tiles of 46000 x 46000 pixels, more than"):
        decode_image(tiff(46_000))  # 2.1 GB, of which not one byte is taken


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(photo, encode):
    jpeg = encode(PIL.Image.fromarray(photo(40, 40)).convert("L"), progressive=True)
    scans = [match.start() for match in re.finditer(b"\xff\xda", jpeg)]
    last, end = jpeg[scans[-1] : -2], jpeg[-2:]
    np.testing.assert_array_equal(
        decode_image(jpeg[:-2] + last * (100 - len(scans)) + end).shape, (40, 40, 3)
    )
    with pytest.raises(CorruptImageError, match="a JPEG of 101 scans, more than the 100"):
        decode_image(jpeg[:-2] + last * (101 - len(scans)) + end)
    # What stands in a comment, or behind the end, is no scan.
    comment = b"\xff\xfe" + (2 + 400).to_bytes(2) + b"\xff\xda" * 200
    assert decode_image(jpeg[:2] + comment + jpeg[2:] + last * 200).shape == (40, 40, 3)


def test_an_ordinary_jpeg_needs_no_look_by_pillow(photo, encode, monkeypatch):
    """Pillow's costs Python, which one thread runs at a time, as long as all else with an image."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    grey = PIL.Image.fromarray(photo(37, 53)).convert("L")
    ordinary = [encode(photo(37, 53), exif=exif), encode(grey, comment=b"\xff\xda" * 200)]
    cmyk = encode(PIL.Image.fromarray(photo(37, 53)).convert("CMYK"))
    several = encode(photo(37, 53), "MPO", save_all=True, append_images=[grey.convert("RGB")])
    others = [encode(grey, progressive=True), cmyk, several]
    expected = [pillow(data) for data in ordinary]

    def opened(*args, **kwargs):
        raise OSError("Pillow was asked")

    monkeypatch.setattr("PIL.Image.open", opened)
    for data, pixels in zip(ordinary, expected, strict=True):
        np.testing.assert_array_equal(decode_image(data), pixels)
        with pytest.raises(CorruptImageError, match="Pillow was asked"):
            decode_image(data, max_pixels=1_000)
    for data in others:
        with pytest.raises(CorruptImageError, match="Pillow was asked"):
            decode_image(data)
    with pytest.raises(CorruptImageError, match="Pillow was asked"):
        decode_image(ordinary[0], exif_orientation=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_header_is_judged_as_pillow_does(photo, encode, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    ways = (decode._plain_jpeg_size, lambda *_: None)
    for _ in range(40):
        damaged = bytearray(encode(photo(30, 40)))
        damaged[rng.integers(2, 600)] = rng.choice([0, 0xC0, 0xDA, 0xE1, 0xFF])
        results = []
        for plain in ways:
            monkeypatch.setattr(decode, "_plain_jpeg_size", plain)
            try:
                results.append(decode_image(bytes(damaged)).tobytes())
            except CorruptImageError as error:
                results.append(str(error))
        assert results[0] == results[1]


def test_an_empty_file_is_called_empty():
    with pytest.raises(CorruptImageError, match="it is empty"):
        decode_image(b"")


def test_heic_is_read_where_its_decoder_is_installed(photo):
    assert (".heic" in IMAGE_SUFFIXES) == (importlib.util.find_spec("pillow_heif") is not None)
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(PIL.Image.fromarray(photo(64, 48))).save(file, quality=90)
    pixels = decode_image(file.getvalue())
    assert pixels.shape == (64, 48, 3)
    assert np.abs(pixels.astype(int) - photo(64, 48)).mean() < 8


# --- photos at a fraction of their size -----------------------------------------------------------


@pytest.mark.parametrize(("most", "factor"), [(0, 1), (1, 1), (2, 2), (3, 2), (7, 4), (30, 8)])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"quality": 90}])
def test_a_photo_is_reduced_to_the_means_of_its_pixels(photo, encode, most, factor, options):
    data = encode(photo(400, 600), **options)
    opened = open_photo(data, large=400)
    assert isinstance(opened, Photo) and opened.shape == (400, 600, 3)
    pixels, divided = opened.reduced(most)
    assert divided == factor and pixels.shape == (400 // factor, 600 // factor, 3)
    blocks = decode_image(data).reshape(400 // factor, factor, 600 // factor, factor, 3)
    difference = np.abs(pixels - blocks.mean((1, 3)))
    assert difference.max() < (1e-6 if factor == 1 else 4) and difference.mean() < 0.6
    np.testing.assert_array_equal(opened.reduced(most)[0], pixels)


def test_grey_photos_and_sizes_that_are_no_multiples(photo, encode):
    data = encode(PIL.Image.fromarray(photo(403, 601)).convert("L"))
    pixels, _ = open_photo(data, large=1).reduced(8)
    assert pixels.shape == (51, 76, 3)  # an incomplete pixel at the end is one, too
    assert (pixels == pixels[..., :1]).all() and pixels.std() > 20


def test_what_is_small_or_no_plain_jpeg_is_decoded_at_once(photo, encode):
    image = PIL.Image.fromarray(photo(100, 300))
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    for data, options in (
        (encode(image), {"large": 101}),
        (encode(image, progressive=True), {"large": 10}),
        (encode(image, "PNG"), {"large": 10}),
        (encode(image, exif=exif), {"large": 10, "exif_orientation": True}),
    ):
        wanted = decode_image(data, exif_orientation="exif_orientation" in options)
        np.testing.assert_array_equal(open_photo(data, **options), wanted)


@pytest.mark.parametrize("most", [1, 8])
def test_a_photo_that_is_cut_short_is_corrupt(photo, encode, most):
    data = encode(photo(400, 600))[:-3000]
    with pytest.raises(CorruptImageError):
        decode_image(data)
    with pytest.raises(CorruptImageError):
        open_photo(data, large=100).reduced(most)
    with pytest.raises(CorruptImageError, match="more than max_pixels"):
        open_photo(encode(photo(400, 600)), large=100, max_pixels=1000)
