"""ResNet-50 with ImageNet's weights on other images. Behind the colon is what is trained, and how.

  --config=transfer_resnet50                    all: the trunk at 1e-4, the head at 1e-3
  --config=transfer_resnet50:head               the head alone: a few hundred images
  --config=transfer_resnet50:gradual            head, then a stage more every 5 epochs
  --config=transfer_resnet50:lp_ft              the head, then all from the middle of the run on
  --config=transfer_resnet50:lora               head and LoRA beside every 1x1 convolution
  --config=transfer_resnet50:discriminative     stages at 0.1, 0.3, 0.6, 1; head at 10
Command: jaxvision train --config=... --workdir=runs/a --config.model.init_from=resnet50.pth
           --config.data.name=folder --config.data.path=data/images --config.data.eval_resize=256
Without these options it learns shapes, rendered on the fly, from random weights.

Which of them: --mode=preflight says what the number of your images speaks for.
Recipe: Adam (SGD for `:discriminative`), batches of 32, 20 epochs, a cosine, label smoothing 0.1, a
careful crop and a flip. BatchNorms of frozen parts keep their statistics. Expected: fine-tuned as a
whole, a ResNet-50 reached 97.5 % on CIFAR-10 and 93.3 % on Caltech-101 in Chen et al. 2020
(SimCLR, the supervised rows), with images of 224 pixels; a linear classifier on its features about
94 % of either. On one GPU an epoch of 10,000 images takes a minute or less.
"""

from configs import common

_RECIPES = ("full", "head", "gradual", "lp_ft", "lora", "discriminative")


def get_config(what: str = "full"):
    common.check_choice("training", what, *_RECIPES)
    config = common.get_config()
    config.model.name = "resnet50"
    config.data.image_size = 224
    config.data.eval_resize = 0  # shapes have no border to cut off
    config.data.shapes.num_train = 2_000
    config.data.shapes.num_eval = 512
    config.augment.crop_scale = (0.8, 1.0)
    config.loss.label_smoothing = 0.1
    config.batch_size = 32
    config.eval_batch_size = 64
    config.total_epochs = 20
    config.log.every_steps = 10
    optimizer = config.optimizer
    optimizer.name = "adam"
    optimizer.learning_rate = 1e-4
    optimizer.weight_decay = 0.0
    optimizer.head_multiplier = 10.0
    if what in ("head", "lp_ft", "lora"):
        optimizer.preset = what
        if what == "lora":
            optimizer.learning_rate = 1e-3
            optimizer.head_multiplier = 1.0
    elif what == "gradual":
        optimizer.preset = "head"
        optimizer.unfreeze = ((5, "stages/3/"), (10, "stages/2/"), (15, "full"))
    elif what == "discriminative":
        optimizer.name = "sgd"
        optimizer.nesterov = False
        optimizer.learning_rate = 1e-3
        optimizer.part_multipliers = (0.1, 0.3, 0.6, 1.0)
    return config.lock()
