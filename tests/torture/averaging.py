"""The resnet run whose weights are averaged stochastically from step 10 on."""

import launching
from torture import resnet

OPTIONS = launching.options(eval__every_steps=8)


def get_config():
    config = resnet.get_config()
    with config.unlocked():
        config.ema_decay = 0.0
        config.swa.start_steps = 10
        config.swa.every_steps = 3
        config.swa.learning_rate = 2e-3
        config.swa.anneal_steps = 7
        config.swa.batch_norm_batches = 2
    return config
