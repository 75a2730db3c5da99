"""MoCo v3: a ViT-B/16 learns from images without their labels.

Data: <path>/train and <path>/val with one folder for each class; the labels are not used.
Command: jaxvision train --config=moco_v3_vit_b16 --workdir=runs/moco
           --config.data.path=data/imagenet
Then:    jaxvision probe --weights=runs/moco

Chen et al. 2021, appendix A: the recipe of moco_v3_vit_s16. Expected after 300 epochs: 76.7 % top-1
of a linear probe, 83.2 % fine-tuned by DeiT's recipe in 150 epochs.
"""

from configs import moco_v3_vit_s16


def get_config(data: str = "imagenet"):
    config = moco_v3_vit_s16.get_config(data)
    with config.unlocked():
        config.model.name = "vit_b16"
        if data == "imagenet":
            config.model.kwargs = dict()
    return config.lock()
