"""Short ways for tests to make what a run makes from its options."""

from jaxvision.data.augment import transforms
from jaxvision.options.augment import AugmentOptions
from jaxvision.options.length import RunLength
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.options.schedule import ScheduleOptions
from jaxvision.train import step as steps
from jaxvision.train.gradients import make_gradient_fn
from jaxvision.train.input import TrainInput
from jaxvision.train.optim import optimizer, schedule


def run_length(total_steps=100, num_examples=1, batch_size=1):
    return RunLength(total_steps=total_steps, num_examples=num_examples, batch_size=batch_size)


def make_schedule(name, *, learning_rate, total_steps, **options):
    return schedule.make_schedule(
        ScheduleOptions(name=name, **options),
        learning_rate=learning_rate,
        length=run_length(total_steps),
    )


def make_optimizer(
    params, *, schedule, groups=None, not_decayed=frozenset(), with_rate_factor=False, **options
):
    return optimizer.make_optimizer(
        params,
        OptimizerOptions(**options),
        schedule=schedule,
        groups=groups,
        not_decayed=not_decayed,
        with_rate_factor=with_rate_factor,
    )


def train_transform(image_size, *, interpolation="bilinear", **options):
    return transforms.train_transform(
        image_size, AugmentOptions(**options), interpolation=interpolation
    )


def make_train_step(
    graphdef,
    task,
    tx,
    *,
    schedule,
    preprocess_fn,
    augment=None,
    mix=None,
    stop_frozen=None,
    accumulate_steps=1,
    average=None,
    shardings=None,
):
    return steps.make_train_step(
        TrainInput(preprocess_fn, augment=augment, mix=mix),
        make_gradient_fn(
            graphdef, task, stop_frozen=stop_frozen, accumulate_steps=accumulate_steps
        ),
        steps.Optimizer(tx, schedule),
        average=average,
        shardings=shardings,
    )
