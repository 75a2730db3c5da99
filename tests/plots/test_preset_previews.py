"""The presets of config.augment reach the batches of a run, and so its preview."""

import numpy as np
import pytest
from opening import make_run

from configs import smoke
from jaxvision.data.augment.presets import PRESETS
from jaxvision.errors import InputError
from jaxvision.preflight.preflight import first_samples


def make_config(preset, **options):
    config = smoke.get_config()
    with config.unlocked():
        config.model.kwargs = dict(width=16, depth=1, num_heads=1, patch_size=16)
        config.augment.crop = "random_resized"
        config.augment.mixup_alpha = 0.0
        config.augment.preset = preset
        for name, value in options.items():
            config.augment[name] = value
    return config


def test_presets_are_seen_in_the_preview():
    plain, _ = first_samples(make_run(make_config("")))
    seen = {"": plain.tobytes()}
    for preset in PRESETS:
        run = make_run(make_config(preset))
        images, _ = first_samples(run)
        np.testing.assert_array_equal(images[0], next(run.train_batches())["image"][:5])
        assert images.dtype == np.uint8 and images.shape == plain.shape
        seen[preset] = images.tobytes()
    assert len(set(seen.values())) == len(PRESETS) + 1


@pytest.mark.parametrize(
    "preset, options, sentence",
    [
        ("deit", {"crop": "none"}, "leave --config.augment.crop at 'random_resized'"),
        ("basic", {"erasing": 0.25}, "leave --config.augment.erasing at 0.0 instead of 0.25"),
        ("best", {}, "augment.preset must be one of basic, recommended, deit, torchvision_v2"),
    ],
)
def test_a_wrong_preset_is_one_sentence(preset, options, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        make_run(make_config(preset, **options))
    assert "\n" not in str(error.value)
