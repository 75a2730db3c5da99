"""The smoke run in float16, with a loss scale that is too large at first: it skips and falls."""

from configs import smoke
from jaxvision.train import loss_scale

loss_scale.INITIAL_SCALE = 2.0**28


def get_config():
    config = smoke.get_config()
    with config.unlocked():
        config.model.dtype = "float16"
    return config
