"""The smoke run that nothing improves: every other evaluation lowers the rate, step 44 is the last.

The first evaluation is the best for good, and ten more of them end the run.
"""

from configs import smoke

OPTIONS = ["--config.eval.every_steps=4"]
END = 44


def get_config():
    config = smoke.get_config()
    with config.unlocked():
        config.schedule.name = "plateau"
        config.schedule.plateau_factor = 0.5
        config.schedule.plateau_patience = 1
        config.schedule.plateau_threshold = 100.0
        config.schedule.plateau_threshold_mode = "abs"
        config.early_stopping.metric = "eval_ema/loss"
        config.early_stopping.patience = 10
        config.early_stopping.min_delta = 100.0
    return config
