"""The smoke run in float16, with a loss scale that is too large at first: it skips and falls."""

from configs import smoke
from jaxvision.train.optim import loss_scale


def get_config():
    # Here and not at the top, which the tests' own process runs too.
    loss_scale.INITIAL_SCALE = 2.0**28
    config = smoke.get_config()
    with config.unlocked():
        config.model.dtype = "float16"
    return config
