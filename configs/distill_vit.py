"""A ResNet teaches a ViT: what a convolution is built with, the ViT learns from few images.

Two commands, on shapes, rendered on the fly; 10 and 15 minutes on 2 CPU cores:
  jaxvision train --config=distill_vit --workdir=runs/teacher
  jaxvision train --config=distill_vit:student --workdir=runs/student
Behind the colon:
  :teacher         the default: a small ResNet
  :student         a small DeiT with a distillation token, taught by the run in runs/teacher
  :alone           the same without a teacher, to compare with
  :imagenet2012    the recipe of the paper; needs --config.distill.teacher_weights=FILE

Paper: Touvron et al. 2021, Training data-efficient image transformers and distillation through
attention, table 3: DeiT-S with its token and hard labels of a RegNetY-16GF (82.9 %) reaches 81.2 %
after 300 epochs, 79.9 % without. Here the teacher is ResNet-152 (82.3 %, torchvision's
IMAGENET1K_V2), which the zoo has; expect a little less. The recipe is configs/deit_s16.py's, the
teacher's forward pass makes a step about half as long again.
"""

from configs import common, deit_s16


def get_config(what: str = "teacher"):
    common.check_choice("network", what, "teacher", "student", "alone", "imagenet2012")
    if what == "imagenet2012":
        config = deit_s16.get_config("imagenet2012")
        config.model.name = "deit_s16_distilled"
        config.distill.teacher = "resnet152"
        config.distill.loss = "hard"
        return config
    config = common.get_config()
    config.data.image_size = 48
    config.data.eval_resize = 0
    config.data.shapes.num_train = 4_000
    config.data.shapes.num_eval = 2_000
    config.augment.crop = "pad"
    config.batch_size = 64
    config.eval_batch_size = 200
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_norm = 1.0
    config.eval.every_steps = 250
    config.checkpoint.every_steps = 250
    config.log.every_steps = 20
    if what == "teacher":
        config.model.name = "resnet18"
        config.model.kwargs = dict(
            stem="cifar", first_stride=2, stage_widths=(32, 64, 128), stage_depths=(1, 1, 1)
        )
        config.total_steps = 1_000
        config.schedule.warmup_steps = 50
    else:
        config.model.name = "deit_ti16_distilled"
        config.model.kwargs = dict(width=128, depth=4, num_heads=4, patch_size=8)
        config.total_steps = 2_000
        config.schedule.warmup_steps = 100
        if what == "student":
            config.distill.teacher_weights = "runs/teacher"
            config.distill.loss = "hard"
    return config.lock()
