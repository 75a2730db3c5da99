"""The smoke run with every record twice in a batch, augmentation in the step, growing images."""

from configs import smoke


def get_config():
    config = smoke.get_config()
    with config.unlocked():
        config.augment.repeats = 2
        config.augment.on_device = True
        config.augment.crop = "pad"
        config.augment.erasing = 0.25
        config.data.image_size_schedule = ((0, 16), (0.5, 24), (1.2, 32))  # from steps 0, 12, 30
    return config
