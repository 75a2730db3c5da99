"""MoCo v3 against lightly's heads and momentum, and the InfoNCE of info-nce-pytorch."""

import copy
import math

import jax
import numpy as np
import pytest
from flax import nnx
from opening import make_run
from parity import peers
from tasks.test_momentum_contrast import config

from jaxvision.interop.moco import official_rules, trees
from jaxvision.interop.rules import export
from jaxvision.layers.block_stack import unstack_blocks
from jaxvision.train.state import create_state

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
heads = pytest.importorskip("lightly.models.modules.heads")
utils = pytest.importorskip("lightly.models.utils")
info_nce = pytest.importorskip("info_nce").info_nce
pytestmark = [pytest.mark.parity, pytest.mark.float64, pytest.mark.quick]

STEPS, RATE, DECAY, HIDDEN, OUTPUTS = 10, 1e-3, 0.05, 24, 16
VIT = {"width": 32, "depth": 2, "num_heads": 2, "patch_size": 4}
RESNET = {"stage_widths": (8, 16, 16, 16), "stage_depths": (1, 1, 1, 1)}


def mlp(*widths, last_norm):
    """Returns a projector or predictor made of lightly's blocks."""
    blocks = []
    for place, pair in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        if place < len(widths) - 2:
            blocks.append((*pair, torch.nn.BatchNorm1d(pair[1]), torch.nn.ReLU(), False))
        else:
            norm = torch.nn.BatchNorm1d(pair[1], affine=False) if last_norm else None
            blocks.append((*pair, norm, None, False))
    return heads.ProjectionHead(blocks)


class Peer(torch.nn.Module):
    """The paper's algorithm 1 as a user of lightly writes it."""

    def __init__(self, trunk, head, width, *, layers, predictor_norm, temperature):
        super().__init__()
        setattr(trunk, head, mlp(width, *[HIDDEN] * (layers - 1), OUTPUTS, last_norm=True))
        self.base_encoder = trunk
        self.momentum_encoder = copy.deepcopy(trunk)
        utils.deactivate_requires_grad(self.momentum_encoder)
        self.predictor = mlp(OUTPUTS, HIDDEN, OUTPUTS, last_norm=predictor_norm)
        self.temperature = temperature

    def forward(self, first, second, keep):
        q1, q2 = (self.predictor(self.base_encoder(view)) for view in (first, second))
        with torch.no_grad():
            utils.update_momentum(self.base_encoder, self.momentum_encoder, keep)
            k1, k2 = (self.momentum_encoder(view) for view in (first, second))
        t = self.temperature
        return 2 * t * (info_nce(q1, k2, temperature=t) + info_nce(q2, k1, temperature=t))


def vit_peer():
    trunk = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2
    )
    for parameter in (trunk.pos_embed, *trunk.patch_embed.parameters()):
        parameter.requires_grad = False
    return Peer(trunk, "head", 32, layers=3, predictor_norm=True, temperature=0.2)


def resnet_peer():
    block = timm.models.resnet.BasicBlock
    trunk = timm.models.resnet.ResNet(block, [1, 1, 1, 1], channels=(8, 16, 16, 16))
    return Peer(trunk, "fc", 16, layers=2, predictor_norm=False, temperature=1.0)


def flat(params, batch_stats, model):
    """Returns our trees under the names of the paper's code."""
    model = nnx.clone(model)
    for tree in (params, batch_stats):
        nnx.update(model, tree)
    return export(*unstack_blocks(jax.device_get(trees(model))), official_rules(model))


def arrays_of(peer):
    found = peers.arrays(peer.state_dict())
    return {n.replace("head.layers.", "head.").replace("fc.layers.", "fc.")
            .replace("predictor.layers.", "predictor."): a for n, a in found.items()}  # fmt: skip


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_ten_steps(kind):
    options = {"model.dtype": "float64", "total_steps": STEPS, "optimizer.eps": peers.ADAM_EPS}
    options |= {"optimizer.clip_norm": 0.0, "optimizer.learning_rate": RATE}
    options |= {"optimizer.weight_decay": DECAY, "schedule.name": "constant"}
    options |= {"schedule.warmup_steps": 0, "moco.hidden_width": HIDDEN}
    if kind == "vit":
        peer, options = vit_peer(), options | {"moco.projector_layers": 3}
        settings = config("vit_ti16", VIT, **options)
    else:
        options |= {"moco.predictor_norm": False, "moco.temperature": 1.0, "data.image_size": 32}
        peer, settings = resnet_peer(), config("resnet18", RESNET, **options)
    run = make_run(settings, devices=8)  # the contrast is over the batch of all of them
    state = create_state(run.build, run.optimizer.tx, seed=0, abstract=run.abstract_state)
    model = nnx.merge(run.graphdef, state.params, state.batch_stats, copy=True)
    start = flat(state.params, state.batch_stats, model)
    names = dict(zip(arrays_of(peer), peer.state_dict(), strict=True))
    assert names.keys() == start.keys()
    peer.double().load_state_dict({names[n]: torch.from_numpy(a) for n, a in start.items()})
    peer.train()
    optimizer = peers.torch_optimizer(peer, "adamw", rate=RATE, weight_decay=DECAY)

    step, distances = run.train_step(), {"loss": 0.0, "gradient": 0.0}
    for number, batch in zip(range(STEPS), run.train_batches(), strict=False):
        images = np.asarray(run.preprocess_fn(jax.numpy.asarray(batch["image"])))
        views = [peers.to_torch(v, "float64") for v in np.split(images, 2, axis=1)]
        keep = 1 - 0.5 * (1 + math.cos(math.pi * number / STEPS)) * (1 - 0.99)
        loss = peer(*views, keep)
        optimizer.zero_grad()
        loss.backward()
        learned = [p.grad for p in peer.parameters() if p.grad is not None]
        norm = torch.sqrt(sum(torch.sum(grad**2) for grad in learned))
        optimizer.step()
        state, metrics = step(state, run.put(batch))
        for name, ours, theirs in (
            ("loss", metrics["loss"], loss),
            ("gradient", metrics["grad_norm"], norm),
        ):
            distance = abs(float(ours) - theirs.item()) / theirs.item()
            distances[name] = max(distances[name], distance)
    ours, theirs = flat(state.params, state.batch_stats, model), arrays_of(peer)
    counted = [name for name in theirs if not name.endswith("num_batches_tracked")]
    for part in ("base_encoder", "momentum_encoder", "predictor"):
        some = [name for name in counted if name.startswith(part)]
        distances[part] = peers.worst({n: ours[n] for n in some}, {n: theirs[n] for n in some})
        assert peers.worst({n: start[n] for n in some}, {n: theirs[n] for n in some}) > 1e-4
    peers.assert_close(distances, peers.FLOAT64_BAR)
