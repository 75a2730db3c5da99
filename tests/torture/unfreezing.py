"""The smoke run with a timetable: its head, half of it from step 10 on, all from step 30 on."""

from configs import smoke


def get_config():
    config = smoke.get_config()
    with config.unlocked():
        config.optimizer.preset = "head"
        config.optimizer.unfreeze = ((0.4, "half"), (1.2, "full"))
    return config
