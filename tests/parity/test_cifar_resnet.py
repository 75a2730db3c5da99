"""The ResNets for CIFAR-10 against the paper's net in torch.

No package has it, so that the peer is written here, with the names of the weights of
akamaster/pytorch_resnet_cifar10.
"""

import pytest
from parity import peers

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.float64]


class ZeroPadding(nn.Module):
    def forward(self, x):
        each = x.shape[1] // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, each, each))


class Block(nn.Module):
    def __init__(self, before, channels, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if before != channels and shortcut == "zero_padding":
            self.shortcut = ZeroPadding()
        elif before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(branch + self.shortcut(x))


class Net(nn.Module):
    def __init__(self, blocks, shortcut="zero_padding"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for stage, channels in enumerate((16, 32, 64)):
            layer = []
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                layer.append(Block(before, channels, stride, shortcut))
                before = channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.linear = nn.Linear(64, peers.CLASSES)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


@pytest.mark.quick
@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 27)])  # 27 pixels become 14, then 7
def test_cifar_resnet20(height, width):
    pair = peers.make_pair(Net(3), "cifar_resnet20", source="akamaster")
    peers.check_all(pair, *peers.batch(height, width), steps=1)
    peers.assert_exports_back(pair, Net(3))


def test_projections():
    def build():
        return Net(1, "projection")

    options = {"stage_depths": (1, 1, 1), "shortcut": "projection"}
    pair = peers.make_pair(build(), "cifar_resnet20", source="akamaster", **options)
    peers.check_all(pair, *peers.batch(32, 24), steps=2)
    peers.assert_exports_back(pair, build())


@pytest.mark.parametrize(("blocks", "count"), [(3, 269_722), (9, 853_018), (200, 19_421_274)])
def test_the_peer_has_the_published_size(blocks, count):
    with torch.device("meta"):
        net = Net(blocks)
    assert sum(parameter.numel() for parameter in net.parameters()) == count
