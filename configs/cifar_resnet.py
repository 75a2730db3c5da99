"""The ResNet paper's nets on CIFAR-10, with shortcuts, and without, where more layers do harm.

  --config=cifar_resnet             ResNet-20
  --config=cifar_resnet:resnet56    ResNet-56
  --config=cifar_resnet:resnet110   ResNet-110, which needs the warmup
  --config=cifar_resnet:plain20     20 layers without shortcuts
  --config=cifar_resnet:plain56     56 layers without shortcuts

Data: the CIFAR-10 python files (the folder or the .tar.gz).
Command: jaxvision train --config=cifar_resnet --workdir=runs/a
           --config.data.path=data/cifar-10-batches-py

The recipe is that of He et al. 2016, section 4.2: SGD 0.1, a tenth after 32,000 and 48,000 of
64,000 steps. Compare the training losses of plain20 and plain56 with those of resnet20 and
resnet56: of the plain nets the deeper is the worse one, on the training images too. Test errors of
the paper: 8.75 %, 6.97 % and 6.43 % for 20, 56 and 110 layers with shortcuts.
"""

from configs import common


def get_config(net="resnet20"):
    common.check_choice("net", net, "resnet20", "resnet56", "resnet110", "plain20", "plain56")
    config = common.get_config()
    config.model.name = "cifar_" + net.replace("plain", "resnet")
    config.model.kwargs = dict(plain=net.startswith("plain"))
    common.cifar(config, "cifar10")
    config.batch_size = 128
    config.eval_batch_size = 500
    config.total_steps = 64_000
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.nesterov = False
    config.schedule.name = "multi_step"
    config.schedule.milestone_steps = (32_000, 48_000)
    if net == "resnet110":
        config.schedule.warmup_steps = 400
    config.checkpoint.best_metric = "eval/accuracy"
    return config.lock()
