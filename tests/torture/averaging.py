"""A small ResNet whose weights are averaged stochastically from step 10 on."""

from configs import smoke

OPTIONS = ["--config.eval.every_steps=8"]


def get_config():
    config = smoke.get_config()
    with config.unlocked():
        config.model.name = "resnet18"
        config.model.kwargs = dict(stage_widths=(8, 16), stage_depths=(1, 1), stem="cifar")
        config.ema_decay = 0.0
        config.swa.start_steps = 10
        config.swa.every_steps = 3
        config.swa.learning_rate = 2e-3
        config.swa.anneal_steps = 7
        config.swa.batch_norm_batches = 2
    return config
