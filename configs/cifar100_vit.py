"""A small ViT on CIFAR-100; the other side of the comparison is configs/cifar100_resnet.py.

Data: the CIFAR-100 python files (the folder or the .tar.gz).
Command: jaxvision train --config=cifar100_vit --workdir=runs/a
           --config.data.path=data/cifar-100-python

The recipe of configs/vit_cifar10.py, which is that of Lee et al. 2021, Vision Transformer for
Small-Size Datasets; table 2 gives 73.8 %, an hour or two on one GPU. A teacher helps: see
configs/distill_vit.py.
"""

from configs import common, vit_cifar10


def get_config():
    config = vit_cifar10.get_config("scratch")
    common.set_source(config, "cifar100")
    return config
