"""ResNet-18 on CIFAR-100; the other side of the comparison is configs/cifar100_vit.py.

Data: the CIFAR-100 python files (the folder or the .tar.gz).
Command: jaxvision train --config=cifar100_resnet --workdir=runs/a
           --config.data.path=data/cifar-100-python

The stem is that of small images, 3x3 without pooling; 11,220,132 parameters. The usual recipe of
this data (DeVries and Taylor 2017, section 4.1): SGD 0.1 with Nesterov momentum, weight decay 5e-4,
200 epochs in batches of 128, a fifth after 60, 120 and 160. It gives 75 % to 78 %, an hour on one
GPU. The ViT has its 74 % only with strong augmentation: without the built-in neighbourhood of a
convolution, 50,000 images are few.
"""

from configs import common


def get_config():
    config = common.get_config()
    config.model.name = "resnet18"
    config.model.kwargs = dict(stem="cifar")
    common.cifar(config, "cifar100")
    config.batch_size = 128
    config.eval_batch_size = 500
    config.total_epochs = 200
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "multi_step"
    config.schedule.milestone_epochs = (60, 120, 160)
    config.schedule.step_factor = 0.2
    config.schedule.warmup_epochs = 1
    return config.lock()
