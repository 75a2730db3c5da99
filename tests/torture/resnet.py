"""The smoke run with BatchNorm and two micro-batches in every update."""

from configs import smoke


def get_config():
    config = smoke.get_config()
    with config.unlocked():
        config.model.name = "resnet18"
        config.model.kwargs = dict(stage_widths=(8, 16), stage_depths=(1, 1), stem="cifar")
        config.accumulate_steps = 2
    return config
