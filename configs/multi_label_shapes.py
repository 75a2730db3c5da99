"""Several labels an image, without any data: which shapes and colours it has.

    python launch.py --config=configs/multi_label_shapes.py --workdir=runs/labels

An image has one to three shapes; the 20 labels are 8 shapes and 12 colours. On your own images,
with a table of several labels (docs/recipes.md#several-labels-an-image):

    python launch.py --config=configs/multi_label_shapes.py --workdir=runs/mine \
      --config.data.name=list --config.data.path=data/photos --config.data.image_size=224 \
      --config.model.name=resnet50 "--config.model.kwargs={}" --config.data.eval_resize=-1 \
      --config.augment.crop=random_resized
"""

from configs import common


def get_config():
    config = common.get_config()
    common.multi_label(config)
    config.model.name = "resnet18"
    config.model.kwargs = dict(stage_widths=(16, 32, 64), stage_depths=(1, 1, 1), stem="cifar")
    config.data.name = "shapes"
    config.data.image_size = 32
    config.data.eval_resize = 0
    config.data.shapes.num_train = 20_000
    config.data.shapes.num_eval = 1_000
    config.data.shapes.difficulty = "easy"
    config.augment.crop = "none"
    config.batch_size = 64
    config.eval_batch_size = 250
    config.total_epochs = 8.0
    config.optimizer.learning_rate = 3e-3
    config.schedule.warmup_epochs = 0.5
    config.eval.every_steps = 500
    config.checkpoint.every_steps = 500
    return config.lock()
