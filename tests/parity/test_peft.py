"""LoRA and IA3 against Hugging Face's peft, over timm's models."""

import copy
import json
import re

import finished_run
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from making import make_optimizer, make_schedule

import jaxvision.parity.torchvision_import  # noqa: F401 - before timm
from jaxvision.interop.adapter_file import load_adapter, save_adapter
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.interop.trained import open_trained
from jaxvision.layers.adapter import ADAPTER, without_adapters
from jaxvision.models.registry import create_model
from jaxvision.options.adapter import AdapterOptions
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.options.options import Options
from jaxvision.train.adapters import with_adapters
from jaxvision.train.optim.freeze import stop_frozen_gradients
from jaxvision.train.optim.layer_depth import layer_groups_of
from jaxvision.train.optim.param_groups import assign_groups
from jaxvision.train.state import abstract_model

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.parity

X64 = jax.config.jax_enable_x64
DTYPE = "float64" if X64 else "float32"
ATOL = 1e-12 if X64 else 2e-5
STEPS, RATE = 5, 1e-2
VIT = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": 8}
RESNET = {"stage_widths": (8, 16), "stage_depths": (1, 1), "stem_width": 64}


def timm_vit(classes=5):
    fields = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
    return timm.models.vision_transformer.VisionTransformer(**fields, num_classes=classes)


def timm_resnet(classes=5):
    resnet = timm.models.resnet
    net = resnet.ResNet(resnet.Bottleneck, (1, 1), channels=(8, 16), num_classes=classes)
    net.layer3 = net.layer4 = torch.nn.Identity()  # it calls four stages
    return net


# Ours, its options, timm's, its head, targets there and here, names there and here.
MODELS = {
    "vit": (
        "vit_ti16",
        VIT | {"image_size": 32},
        timm_vit,
        "head",
        r".*(attn\.proj|mlp\.fc[12])",
        r"blocks/\d/(attn/out|mlp/fc[12])/kernel",
        {"attn.proj": "attn/out", "mlp.fc1": "mlp/fc1", "mlp.fc2": "mlp/fc2"},
    ),
    "resnet": (
        "resnet50",
        RESNET,
        timm_resnet,
        "fc",
        r"layer.*conv[13]",
        r"stages/.*conv[13]/",
        {"layer1.0.": "stages/0/0/", "layer2.0.": "stages/1/0/"},
    ),
}


def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 32, 32, 3)).astype(DTYPE), np.array([0, 3, 1, 4])


def arrays(state):
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def theirs_in_torch(module, seed=0):
    """Returns a module in evaluation, of random values, in the dtype of the test."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + 0.05)
    return module.to(getattr(torch, DTYPE)).eval()


def turned(batch):
    return torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())


class Pair:
    """A model of timm with peft's LoRA and ours, with the same values of everything."""

    def __init__(self, kind, **options):
        name, fields, make, head, targets, our_targets, self.names = MODELS[kind]
        base = theirs_in_torch(make())
        config = peft.LoraConfig(
            r=3, lora_alpha=7, target_modules=targets, modules_to_save=[head],
            init_lora_weights=False, use_rslora=options.get("rank_stabilized", False),
        )  # fmt: skip
        self.build = lambda rngs: create_model(
            name, num_classes=5, dtype=DTYPE, rngs=rngs, **fields
        )
        options = Options(
            adapter=AdapterOptions(rank=3, alpha=7.0, targets=our_targets, **options),
            optimizer=OptimizerOptions(preset="lora"),
        )
        self.build = with_adapters(self.build, abstract_model(self.build)[1], options)
        model = self.build(nnx.Rngs(0))
        assign_weights(model, arrays(base.state_dict()), source="timm")
        torch.manual_seed(0)
        self.theirs = peft.get_peft_model(base, config).to(getattr(torch, DTYPE)).eval()
        self.graphdef, params, self.stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        self.params = nnx.to_pure_dict(params)
        for (place, factor), value in self.factors(self.theirs.state_dict()).items():
            *path, last = [*place.split("/"), ADAPTER, factor]
            node = self.params
            for key in path:
                node = node[key if key in node else int(key)]
            assert node[last].shape == value.shape
            node[last] = jnp.asarray(value)

    def factors(self, tensors):
        """Returns {(our layer, lora_a or lora_b): array as ours}, blocks of a ViT stacked."""
        found = {}
        for name, tensor in tensors.items():
            match = re.fullmatch(r"base_model\.model\.(.*)\.lora_([AB])\.default\.weight", name)
            if not match:
                continue
            value = tensor.detach().numpy()
            value = value.reshape(value.shape[:2]).T
            layer, factor = match[1], f"lora_{match[2].lower()}"
            if layer.startswith("blocks"):
                found.setdefault((f"blocks/{self.names[layer[9:]]}", factor), []).append(value)
            else:
                ours = self.names[layer[:9]] + layer[9:]
                found[(ours, factor)] = value
        return {k: np.stack(x) if isinstance(x, list) else x for k, x in found.items()}

    def logits(self, params, batch):
        return nnx.merge(self.graphdef, params, self.stats, copy=True)(jnp.asarray(batch))


@pytest.fixture(scope="module", params=["vit", "resnet"])
def pair(request):
    return Pair(request.param)


def test_outputs_and_merged_weights(pair):
    batch, _ = images()
    with torch.no_grad():
        wanted = pair.theirs(turned(batch)).numpy()
    np.testing.assert_allclose(pair.logits(pair.params, batch), wanted, rtol=1e-5, atol=ATOL)

    model = nnx.merge(pair.graphdef, pair.params, pair.stats, copy=True)
    merged = copy.deepcopy(pair.theirs).merge_and_unload().state_dict()
    ours = extract_weights(model, format="timm")
    assert ours.keys() == merged.keys()
    for name, array in arrays(merged).items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=ATOL)


def test_gradients_and_steps_of_adamw_with_the_trunk_as_it_was(pair):
    batch, labels = images()
    theirs = copy.deepcopy(pair.theirs)
    trained = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    decayed = [p for p in trained.values() if p.ndim > 1]
    others = [p for p in trained.values() if p.ndim == 1]
    rule = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=RATE, weight_decay=0.1
    )
    groups = assign_groups(
        pair.params,
        layer_groups=layer_groups_of(nnx.merge(pair.graphdef, pair.params, pair.stats)),
        preset="lora",
    )
    hold = stop_frozen_gradients(groups)
    assert hold is not None
    tx = make_optimizer(
        pair.params,
        groups=groups,
        schedule=make_schedule("constant", learning_rate=RATE, total_steps=STEPS),
        name="adamw",
        weight_decay=0.1,
    )

    @jax.jit
    def gradients(params):
        def loss(params):
            logits = pair.logits(hold(params, jnp.zeros((), jnp.int32)), batch)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    update = jax.jit(tx.update)
    params, state = pair.params, tx.init(pair.params)
    for step in range(STEPS):
        rule.zero_grad()
        torch.nn.functional.cross_entropy(
            theirs(turned(batch)), torch.from_numpy(labels)
        ).backward()
        grads = gradients(params)
        if step == 0:
            found = pair.factors({name: p.grad for name, p in trained.items()})
            assert found
            for place, wanted in found.items():
                grad = at(grads, place)
                assert np.abs(wanted).max() > 1e-4
                np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=ATOL)
        rule.step()
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    for place, wanted in pair.factors(theirs.state_dict()).items():
        np.testing.assert_allclose(at(params, place), wanted, atol=1e-10 if X64 else 1e-4)
        assert np.abs(at(params, place) - at(pair.params, place)).max() > RATE
    head = next(p for name, p in trained.items() if "modules_to_save" in name and p.ndim == 2)
    ours = params["head"]["kernel"]
    np.testing.assert_allclose(ours, head.detach().numpy().T, atol=1e-10 if X64 else 1e-4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if ADAPTER not in name and "head" not in name:
            np.testing.assert_array_equal(leaf, at(pair.params, path))


def at(tree, place):
    """Returns what stands in a tree at a path, or at the factor of one of our layers."""
    if isinstance(place[0], str):
        place = (*place[0].split("/"), ADAPTER, place[1])
    for key in place:
        key = getattr(key, "key", key)
        tree = tree[key if key in tree else int(key)]
    return np.asarray(tree)


# --- files of adapters --------------------------------------------------------------------------


def noisy(params):
    """Returns the parameters with adapters that change something."""
    rng = np.random.default_rng(3)

    def one(path, leaf):
        name = jax.tree_util.keystr(path)
        if ADAPTER not in name:
            return leaf
        return leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape).astype(np.float32))

    return jax.tree_util.tree_map_with_path(one, params)


RUNS = {
    "vit": {"adapter__rank": 3, "adapter__alpha": 7.0},  # qkv, too
    "vit, some of qkv": {
        "adapter__targets": "attn/(query|value)|fc1", "adapter__rank_stabilized": True,
    },
    "resnet": {"adapter__rank": 2},
    "vit, ia3": {"optimizer__preset": "ia3"},
    "vit, ia3 of some": {"optimizer__preset": "ia3", "adapter__targets": "attn/(value|out)/"},
    "resnet, ia3": {"optimizer__preset": "ia3", "adapter__targets": "conv[13]/"},
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        case if case in ("vit", "resnet") else pytest.param(case, marks=pytest.mark.repeats)
        for case in RUNS
    ],
)
def test_an_adapter_alone_is_read_by_peft_and_comes_back(case, tmp_path):
    name, fields, make, *_ = MODELS[case.partition(",")[0]]
    fields = {key: value for key, value in fields.items() if key != "image_size"}
    changes = {"optimizer__preset": "lora", "ema_decay": 0.0} | RUNS[case]
    run, state = finished_run.write(
        tmp_path / "run", name=name, options=fields, trained=noisy, **changes
    )
    save_adapter(tmp_path / "run", tmp_path / "adapter")
    classes = run.num_outputs
    merged = open_trained(str(tmp_path / "run")).model
    wanted = extract_weights(merged, format="timm")

    # The weights that the run started from, with another head.
    base = create_model(name, num_classes=classes, rngs=nnx.Rngs(9), **fields, **(
        {"image_size": 32} if "vit" in case else {}
    ))  # fmt: skip
    plain = nnx.to_pure_dict(nnx.state(base, nnx.Param))
    for key, value in state.params.items():
        if key != "head":
            plain[key] = without_adapters(value)
    nnx.update(base, plain)
    peer = make(classes)
    peer.load_state_dict(
        {n: torch.from_numpy(x) for n, x in extract_weights(base, format="timm").items()}
    )
    report = load_adapter(base, tmp_path / "adapter")
    assert report.loaded and not report.adapted and not report.left_out
    for key, array in extract_weights(base, format="timm").items():
        np.testing.assert_allclose(array, wanted[key], rtol=1e-6, atol=1e-7)

    theirs = peft.PeftModel.from_pretrained(peer, str(tmp_path / "adapter")).double().eval()
    own = make(classes)
    own.load_state_dict({n: torch.from_numpy(x) for n, x in wanted.items()})  # strict
    batch = turned(images()[0]).double()
    with torch.no_grad():
        logits, ours = theirs(batch), own.double().eval()(batch)
    assert (logits - ours).abs().max() < 1e-5 * max(1, float(ours.abs().max()))
    unloaded = arrays(theirs.merge_and_unload().state_dict())
    for key, array in wanted.items():
        np.testing.assert_allclose(unloaded[key], array, rtol=1e-5, atol=1e-6)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["head" if "vit" in case else "fc"]


@pytest.mark.parametrize("stabilized", [False, True])
def test_reads_what_peft_wrote_for_qkv(stabilized, tmp_path):
    theirs = theirs_in_torch(timm_vit())
    model = create_model("vit_ti16", num_classes=5, rngs=nnx.Rngs(0), **VIT, image_size=32)
    assign_weights(model, arrays(theirs.float().state_dict()), source="timm")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2, target_modules=["qkv", "fc2"], init_lora_weights=False, bias="lora_only",
        use_rslora=stabilized, alpha_pattern={"qkv": 5, "blocks.1.mlp.fc2": 3},
    )  # fmt: skip
    wrapped = peft.get_peft_model(theirs, config)
    wrapped.save_pretrained(str(tmp_path))
    load_adapter(model, tmp_path)
    merged = arrays(wrapped.merge_and_unload().state_dict())
    for name, array in extract_weights(model, format="timm").items():
        np.testing.assert_allclose(array, merged[name], rtol=1e-5, atol=1e-6)
