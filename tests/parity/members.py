"""The models that are held against their peers, as (peer, our name, source, our options)."""

import pytest

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

CLASSES = 10
# Of the small Vision Transformers. Two heads of unequal use: a mixed-up head order shows.
SMALL = {"width": 48, "depth": 2, "num_heads": 3, "patch_size": 8}


def timm_vit(image_size=32, **options):
    return timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=CLASSES,
        img_size=image_size,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        **options,
    )


def torchvision_vit(image_size=32, **options):
    return torchvision.models.VisionTransformer(
        image_size=image_size,
        patch_size=8,
        num_layers=2,
        num_heads=3,
        hidden_dim=48,
        mlp_dim=192,
        num_classes=CLASSES,
        **options,
    )


def with_hidden(module, name, hidden=24):
    """Replaces the linear head by one with a hidden layer; its dropouts are drawn by no peer."""
    linear = module.get_submodule(name)
    layers = (
        torch.nn.Dropout(0.0),
        torch.nn.Linear(linear.in_features, hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.0),
        torch.nn.Linear(hidden, CLASSES),
    )
    module.set_submodule(name, torch.nn.Sequential(*layers))
    return module


def torchvision_resnet(block="BasicBlock", **options):
    return torchvision.models.ResNet(
        getattr(torchvision.models.resnet, block), (1, 1, 1, 1), num_classes=CLASSES, **options
    )


SMALL_VITS = {
    "timm vit": (timm_vit, "timm", {}),
    "timm vit, not square": (
        lambda: timm_vit(image_size=(16, 40)),
        "timm",
        {"image_size": (16, 40)},
    ),
    "timm vit, loop": (timm_vit, "timm", {"scan": False}),
    "timm vit, layer scale": (
        lambda: timm_vit(init_values=0.1),
        "timm",
        {"layer_scale_init": 0.1},
    ),
    "timm vit, average": (
        lambda: timm_vit(global_pool="avg", class_token=False),
        "timm",
        {"pool": "average", "class_token": False},
    ),
    "timm vit, average with class token": (
        lambda: timm_vit(global_pool="avg"),
        "timm",
        {"pool": "average"},
    ),
    "timm vit, average of normalised tokens": (
        lambda: timm_vit(global_pool="avg", fc_norm=False, class_token=False),
        "timm",
        {"pool": "average", "fc_norm": False, "class_token": False},
    ),
    "timm vit, hidden layer": (
        lambda: with_hidden(timm_vit(), "head"),
        "timm",
        {"head_hidden": 24},
    ),
    "torchvision vit": (torchvision_vit, "torchvision", {}),
    "torchvision vit, pooler": (
        lambda: torchvision_vit(representation_size=48),
        "torchvision",
        {"pooler": True},
    ),
}
SHALLOW = {"stage_depths": (1, 1, 1, 1)}
SMALL_RESNETS = {
    "torchvision hidden layer": (
        lambda: with_hidden(torchvision_resnet(), "fc"),
        "resnet18",
        "torchvision",
        SHALLOW | {"head_hidden": 24},
    ),
    "torchvision basic": (torchvision_resnet, "resnet18", "torchvision", SHALLOW),
    "torchvision resnext": (
        lambda: torchvision_resnet("Bottleneck", groups=32, width_per_group=4),
        "resnext50_32x4d",
        "torchvision",
        SHALLOW,
    ),
}
REAL_RESNETS = {
    "torchvision resnet18": "resnet18",
    "torchvision resnet50": "resnet50",
    "timm resnext50_32x4d": "resnext50_32x4d",
    "timm wide_resnet50_2": "wide_resnet50_2",
}


def real_resnet(member):
    source, name = member.split()
    if source == "timm":
        return timm.create_model(name, num_classes=CLASSES)
    return getattr(torchvision.models, name)(num_classes=CLASSES)
