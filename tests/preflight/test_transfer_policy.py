import pytest

from configs import common
from jaxvision.options.options import read_options
from jaxvision.preflight.transfer_policy import suggested_presets, transfer_advice
from jaxvision.train.optim.param_groups import PRESETS


@pytest.mark.parametrize(
    ("num_images", "presets"),
    [
        (999, ("head", "late")),
        (1_000, ("half", "most")),
        (10_000, ("half", "most")),
        (10_001, ("full_low_lr", "full")),
    ],
)
def test_the_table(num_images, presets):
    """Below 1k, 1k to 10k, above 10k images; like and unlike those of the weights."""
    assert suggested_presets(num_images) == presets
    assert set(presets) <= set(PRESETS)


def test_only_a_run_from_weights_is_advised():
    config = common.get_config()
    assert transfer_advice(read_options(config), 5_000) is None
    config.model.init_from = "resnet50.pth"
    config.optimizer.unfreeze = ((2, "late"),)
    advice = transfer_advice(read_options(config), 5_000)
    assert "5,000 training images" in advice and "preset=half if they look like" in advice
    assert "or most if they do not; this run has 'full' with a timetable." in advice
