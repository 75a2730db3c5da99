"""Airbench against its published network, whitening and schedule, in torch.

No package has it, so that the peer is written here, as the published code computes it.
"""

import jax
import numpy as np
import pytest
from parity import peers

import jaxvision as jv
from configs import cifar10_fast
from jaxvision.errors import InputError
from jaxvision.models.airbench import dirac, whitening_kernel

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.float64]
WIDTHS = (8, 16, 24)


class Norm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-12, momentum=0.4)
        ones = self.weight.data
        del self.weight  # not trained: always 1
        self.register_buffer("weight", ones)


class Group(nn.Module):
    def __init__(self, before, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, padding="same", bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = Norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
        self.norm2 = Norm(channels)
        self.activ = nn.GELU()

    def forward(self, x):
        x = self.activ(self.norm1(self.pool(self.conv1(x))))
        return self.activ(self.norm2(self.conv2(x)))


class Mul(nn.Module):
    def forward(self, x):
        return x * (1 / 9)


def net(widths=WIDTHS):
    groups = [Group(*pair) for pair in zip((24, *widths), widths, strict=False)]
    return nn.Sequential(
        nn.Conv2d(3, 24, 2, bias=True),
        nn.GELU(),
        *groups,
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(widths[-1], peers.CLASSES, bias=False),
        Mul(),
    )


@pytest.mark.quick
def test_airbench():
    pair = peers.make_pair(net(), "airbench94", source="airbench", stage_widths=WIDTHS)
    peers.check_all(pair, *peers.batch(32, 32), steps=2)
    peers.assert_exports_back(pair, net())


def test_the_peer_has_the_published_size():
    with torch.device("meta"):
        parameters = net((64, 256, 256)).parameters()
    assert sum(x.numel() for x in parameters) == jv.get_spec("airbench94").num_params


def test_norms_with_a_scale_are_refused():
    peer = net()
    peer[3].norm1.weight[2] = 0.5
    with pytest.raises(InputError, match=r"3.norm1.weight is not 1 everywhere"):
        peers.make_pair(peer, "airbench94", source="airbench", stage_widths=WIDTHS)


def test_whitening_is_the_published_one():
    images = np.random.default_rng(0).normal(size=(40, 9, 7, 3)).cumsum(axis=2) / 3
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    patches = x.unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, 3, 2, 2)
    flat = patches.reshape(len(patches), -1)
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat), UPLO="U")
    values, vectors = values.flip(0).view(-1, 1, 1, 1), vectors.T.reshape(12, 3, 2, 2).flip(0)
    scaled = vectors / torch.sqrt(values + 5e-4)
    theirs = torch.cat((scaled, -scaled)).numpy().transpose(2, 3, 1, 0)
    ours = whitening_kernel(images, 2, 5e-4)
    # An axis may point either way, and its negative is there, too.
    sign = np.sign(np.sum(ours * theirs, axis=(0, 1, 2)))
    np.testing.assert_allclose(ours * sign, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [(5, 9), (9, 9), (9, 5)])
def test_first_channels_start_as_those_of_torch(channels):
    kernel = np.asarray(dirac(jax.random.key(0), (3, 3, *channels), np.dtype(np.float32)))
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    expected = weight.clone()
    nn.init.dirac_(expected[: expected.size(1)])
    assert torch.equal(weight, expected)
    rest = kernel[..., channels[0] :]
    assert np.abs(rest).max(initial=0.0) <= 1 / np.sqrt(9 * channels[0])


def test_the_rates_of_the_recipe_are_the_published_ones():
    """Of cpu and gpu: the peak of 11.5 for 1,024 examples, and the triangle below it."""
    from jaxvision.options.length import RunLength
    from jaxvision.options.options import read_options
    from jaxvision.train.optim.schedule import make_schedule

    for machine in ("cpu", "gpu"):
        options = read_options(cifar10_fast.get_config(machine)).optimizer
        size = cifar10_fast.get_config(machine).batch_size
        scale = 1024 * (1 + 1 / (1 - 0.85))
        assert options.learning_rate == pytest.approx(11.5 / scale * size, rel=2e-3)
        assert options.weight_decay * options.learning_rate == pytest.approx(
            0.0153 / scale * size, rel=5e-3
        )
    steps, options = 1_000, read_options(cifar10_fast.get_config())
    schedule = make_schedule(
        options.schedule,
        learning_rate=1.0,
        length=RunLength(total_steps=steps, num_examples=steps, batch_size=1),
    )
    published = np.interp(np.arange(steps), [0, 230, steps], [0.2, 1.0, 0.07])
    ours = np.array([float(schedule(step)) for step in range(0, steps, 37)])
    np.testing.assert_allclose(ours, published[::37], atol=5e-3)  # torch counts from 0 to n - 1
