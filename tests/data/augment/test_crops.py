import numpy as np
import PIL.Image
import pytest

from jaxvision.data.augment.crops import CenterCrop, PadCrop, RandomResizedCrop, Resize
from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.decode import decode_image, open_photo

SIZES = [(50, 37), (37, 50), (31, 31), (16, 90), (224, 300), (20, 24)]


def torch_mode(name):
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(name)


@pytest.mark.parity
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_evaluation_equals_torchvision(rng, size, interpolation):
    from torchvision import transforms

    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for resize, crop in ((17, 17), (32, 28), (40, 40), (64, 41)):  # some larger than the image
        peer = transforms.Compose(
            [transforms.Resize(resize, torch_mode(interpolation)), transforms.CenterCrop(crop)]
        )
        expected = np.asarray(peer(PIL.Image.fromarray(image)))
        ours = eval_transform(crop, eval_resize=resize, interpolation=interpolation)
        np.testing.assert_array_equal(ours(image, None), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [24, (24, 24), (12, 40), (40, 12)])
def test_evaluation_shows_no_black_frame(size, crop):
    """White images stay white, and a crop that is no square is covered in both directions."""
    white = np.full((*size, 3), 255, np.uint8)
    for scale in (1, 8 / 7, 2):
        resize = round(scale * np.min(crop))
        assert (eval_transform(crop, eval_resize=resize)(white, None) == 255).all()


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [(32, 32), (16, 40), (40, 16)])
def test_what_covers_an_oblong_is_as_large_as_timms(rng, size, crop):
    from timm.data.transforms import ResizeKeepRatio

    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = ResizeKeepRatio(crop, longest=0.0)(PIL.Image.fromarray(image))
    ours = Resize(crop, covers=True)(image)
    # timm rounds the longer side, torchvision rounds it down.
    assert np.abs(np.subtract(ours.shape[:2], theirs.size[::-1])).max() <= 1


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
def test_resize_to_a_pair_equals_torchvision(rng, size):
    from torchvision import transforms

    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = transforms.Resize((24, 30))(PIL.Image.fromarray(image))
    np.testing.assert_array_equal(Resize((24, 30))(image), np.asarray(expected))


def test_eval_without_resize_leaves_pixels_alone(rng):
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(eval_transform(32, eval_resize=0)(image, None), image)
    np.testing.assert_array_equal(CenterCrop((2, 4))(image), image[15:17, 14:18])


@pytest.mark.parity
@pytest.mark.parametrize("size", [(333, 500), (40, 400), (400, 40), (64, 64)])
def test_random_resized_crop_draws_from_torchvisions_distribution(size):
    import torch
    from torchvision import transforms

    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    rng, number = np.random.default_rng(1), 3000
    crop = RandomResizedCrop((8, 8), scale, ratio)
    ours = np.array([crop.draw(*size, rng) for _ in range(number)])
    torch.manual_seed(1)
    picture = PIL.Image.new("RGB", size[::-1])
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(picture, list(scale), list(ratio))
            for _ in range(number)
        ]
    )
    for values in (ours, theirs):
        top, left, height, width = values.T
        assert (top >= 0).all() and (top + height <= size[0]).all() and (height > 0).all()
        assert (left >= 0).all() and (left + width <= size[1]).all() and (width > 0).all()
    # Kolmogorov-Smirnov distance of two samples of 3000: above 0.044 once in two hundred times.
    features = [0, 1, 2, 3]
    for column in features:
        a, b = np.sort(ours[:, column]), np.sort(theirs[:, column])
        grid = np.unique(np.concatenate([a, b]))
        gap = np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")
        assert np.abs(gap).max() / number < 0.05, column


def test_random_resized_crop_rule():
    """The rule by hand, with a generator whose draws are known."""
    crop = RandomResizedCrop((8, 8), (0.25, 0.25), (1.0, 1.0))
    top, left, height, width = crop.draw(100, 100, np.random.default_rng(0))
    assert (height, width) == (50, 50) and 0 <= top <= 50 and 0 <= left <= 50
    # Nothing fits: the largest middle part within the ratio.
    wide = RandomResizedCrop((8, 8), (1.0, 1.0), (0.5, 2.0))
    assert wide.draw(10, 100, np.random.default_rng(0)) == (0, 40, 10, 20)
    assert wide.draw(100, 10, np.random.default_rng(0)) == (40, 0, 20, 10)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.4, 2.0, 3.3, 7.0])
def test_random_resized_crop_resizes_well(photo, factor, interpolation):
    """Close to Pillow's antialiased resize on a smooth image, whatever the factor."""
    side = round(64 * factor)
    image = photo(side, side)
    crop = RandomResizedCrop((64, 64), (1.0, 1.0), (1.0, 1.0), interpolation)
    ours = crop(image, np.random.default_rng(0)).astype(int)
    theirs = Resize((64, 64), interpolation)(image).astype(int)
    # Measured: 0.1 to 1.0; 1.5 at 3.3, where one pixel at the edge is cut off.
    assert np.abs(ours - theirs).mean() < 2.0
    assert ours.shape == (64, 64, 3)


def test_random_resized_crop_does_not_alias():
    """A checkerboard of single pixels becomes grey when shrunk four times."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 255
    crop = RandomResizedCrop((32, 32), (1.0, 1.0), (1.0, 1.0))
    assert np.abs(crop(image, np.random.default_rng(0)).astype(int) - 128).max() <= 1


@pytest.mark.parametrize(("reflects", "mode"), [(False, "constant"), (True, "reflect")])
def test_pad_crop_covers_all_offsets_and_pads(rng, reflects, mode):
    image = rng.integers(1, 256, (6, 8, 3), dtype=np.uint8)
    crop = PadCrop((6, 8), padding=2, reflects=reflects)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)  # torch's names of the modes
    windows = {
        padded[top : top + 6, left : left + 8].tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    seen = {windows[crop(image, rng).tobytes()] for _ in range(400)}
    assert len(seen) == 25


def test_random_operations_need_a_generator(rng):
    image = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for operation in (RandomResizedCrop((4, 4)), PadCrop((9, 9))):
        with pytest.raises(ValueError, match="default_rng"):
            operation(image, None)


def test_a_part_of_a_photo_is_nearer_to_an_antialiased_one_than_that_of_all_pixels(photo, encode):
    """The same random numbers are drawn; edges lie at reduced pixels."""
    data = encode(photo(900, 1200), quality=92)
    full, opened = decode_image(data), open_photo(data, large=200)
    crop = RandomResizedCrop((48, 64))
    differences, without = [], []
    for seed in range(12):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        reduced = crop(opened, one)
        place = crop.draw(900, 1200, other)
        assert one.random() == other.random()
        factor = opened.reduced(min(place[2] // 48, place[3] // 64))[1]
        top, left, height, width = (x // factor * factor for x in place)
        part = full[top : top + height, left : left + width]
        whole = RandomResizedCrop((48, 64), (1.0, 1.0), (width / height,) * 2)(part, other)
        wanted = Resize((48, 64))(part).astype(int)
        differences.append(np.abs(reduced - wanted))
        without.append(np.abs(whole - wanted))
        assert reduced.shape == (48, 64, 3) and reduced.dtype == np.uint8
        np.testing.assert_array_equal(reduced, crop(opened, np.random.default_rng(seed)))
    assert np.mean(differences) < min(1, np.mean(without)) and np.max(differences) < 12


def test_a_part_that_is_less_than_twice_the_output_has_the_very_pixels(photo, encode):
    data = encode(photo(300, 400))
    crop = RandomResizedCrop((200, 200), (0.3, 0.9))
    for seed in range(4):
        ours = crop(open_photo(data, large=100), np.random.default_rng(seed))
        np.testing.assert_array_equal(ours, crop(decode_image(data), np.random.default_rng(seed)))
