"""A small ResNet on CIFAR-10 for 2 CPU cores: few wide 3x3 convolutions at 16 pixels and less.

Data: the CIFAR-10 python files (the folder or the .tar.gz), or any folder or zips of images.
Command: jaxvision train --config=cifar10_resnet --workdir=runs/cifar
           --config.data.path=data/cifar-10-batches-py
     or: ... --config.data.name=folder --config.data.path=data/cifar10
           --config.data.train_split='train_*.zip' --config.data.eval_split=test.zip
The expected accuracy and the time it took are in benchmarks/RESULTS.md.
"""

from configs import common


def get_config():
    config = common.get_config()
    config.model.name = "resnet18"
    config.model.kwargs = dict(
        stem="cifar",
        first_stride=2,
        stage_widths=(64, 128, 256),
        stage_depths=(1, 1, 1),
    )
    common.cifar(config, "cifar10")
    config.loss.label_smoothing = 0.1
    config.batch_size = 128
    config.eval_batch_size = 200
    config.total_epochs = 6
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.2
    config.optimizer.weight_decay = 5e-4
    config.schedule.warmup_epochs = 1
    config.ema_decay = 0.99
    config.checkpoint.best_metric = "eval_ema/accuracy"
    config.log.every_steps = 50
    return config.lock()
