"""Stages, the head, and what freezing means; on every net that the names of torchvision reach."""

from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from conftest import WithoutMemory
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError
from thaw.nets import pretrained
from thaw.nets.backbone import NORMS, Backbone, digest

# These run always, the rest are slow tests: most kinds of nets have one here.
KINDS = {
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "vgg11_bn",
    "vit_b_16",
}
TIMM_KINDS = {
    "tf_efficientnet_lite0",
    "resnet18",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
}
TIMM = [
    *sorted(TIMM_KINDS),
    "mobilenetv3_small_100",
    "regnetx_002",
    "mixer_s32_224",
    "mobilevit_xxs",
    "repvgg_a0",
    "ghostnet_100",
    "xcit_nano_12_p16_224",
    "efficientvit_b0",
    "fastvit_t8",
]
NAMES = [("torchvision", name, name) for name in models.list_models(module=models)]
NAMES += [("timm", name, f"timm-{name}") for name in TIMM]
NETS = [
    pytest.param(
        (library, name),
        marks=[] if name in KINDS | TIMM_KINDS else pytest.mark.slow,
        id=label,
    )
    for library, name, label in NAMES
]
NO_TRANSFORMS = ImageClassification(crop_size=32)
SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module", params=NETS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    library, name = request.param
    with WithoutMemory():
        made = getattr(pretrained, library)(name, weights=None)
    return made.to("meta").eval()


def small(name: str = SMALL, classes: int = 3, **kwargs: float) -> Backbone:
    torch.manual_seed(0)
    made = pretrained.torchvision(name, weights=None, **kwargs)
    made.reset_head(classes)
    return calibrated(made)


def calibrated(backbone: Backbone) -> Backbone:
    """Give BatchNorm statistics of images: with those it begins with, signals fade to nothing."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # one pass is enough
    backbone.train()
    with torch.no_grad():
        backbone(images())
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return backbone


def sequential(**layers: nn.Module) -> Backbone:
    return Backbone(nn.Sequential(OrderedDict(layers)), NO_TRANSFORMS, {})


def images(size: int = 64, count: int = 4) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def tensors(backbone: Backbone) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.net.state_dict().items()}


def changed(backbone: Backbone, before: dict[str, Tensor]) -> set[str]:
    after = backbone.net.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def names_in(backbone: Backbone, *stages: str) -> set[str]:
    return {name for stage in stages for name in backbone.named_tensors_of(stage)}


def parameters_in(backbone: Backbone, *stages: str) -> set[str]:
    return {name for stage in stages for name in backbone.named_parameters_of(stage)}


def trainable(backbone: Backbone) -> set[str]:
    return {name for name, p in backbone.net.named_parameters() if p.requires_grad}


def in_training(backbone: Backbone) -> set[str]:
    return {name for name, module in backbone.net.named_modules() if module.training}


def take_steps(backbone: Backbone, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    backbone.train()
    for _ in range(steps):
        optimizer.zero_grad()
        labels = torch.arange(4) % 3
        nn.functional.cross_entropy(backbone(images()), labels).backward()
        optimizer.step()


# --- the partition, on every net ------------------------------------------------------------------


def test_the_names_of_the_kinds_are_torchvisions():
    assert set(models.list_models(module=models)) >= KINDS


def test_every_parameter_and_buffer_is_in_exactly_one_stage(backbone: Backbone):
    net = backbone.net
    all_names = [name for name, _ in [*net.named_parameters(), *net.named_buffers()]]
    staged = [name for stage in backbone.stages for name in backbone.named_tensors_of(stage)]
    assert sorted(staged) == sorted(all_names)
    total = sum(parameter.numel() for parameter in net.parameters())
    assert sum(map(backbone.num_parameters, backbone.stages)) == total


def test_stages_go_from_the_stem_to_the_head(backbone: Backbone):
    names = list(backbone.stages)
    assert (names[0], names[-1]) == ("stem", "head")
    assert len(names) > 4, "at least four stages precede the head"
    assert all(backbone.num_parameters(stage) for stage in names), "no stage is empty"


def test_a_new_head_changes_the_logits_and_nothing_else(backbone: Backbone):
    def shapes() -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in backbone.net.state_dict().items()}

    def dropouts() -> list[tuple[str, float]]:
        found = [(n, m.p) for n, m in backbone.net.named_modules() if isinstance(m, nn.Dropout)]
        return [*found, ("drop_rate", getattr(backbone.net, "drop_rate", 0.0))]

    shapes_before, dropouts_before, features = shapes(), dropouts(), backbone.in_features
    backbone.reset_head(7)
    assert backbone.in_features == features
    differ = {name for name, shape in shapes().items() if shape != shapes_before[name]}
    assert differ == parameters_in(backbone, "head")
    assert dropouts() == dropouts_before


def test_stages_run_in_their_order_and_end_in_the_logits_of_the_new_head(backbone: Backbone):
    backbone.reset_head(7)
    stages = list(backbone.stages)
    owners: dict[nn.Module, set[int]] = {}
    for number, stage in enumerate(stages):
        for name in backbone.named_parameters_of(stage):
            module = backbone.net.get_submodule(name.rpartition(".")[0])
            owners.setdefault(module, set()).add(number)
    calls: dict[nn.Module, None] = {}  # ordered
    hooks = [m.register_forward_pre_hook(lambda m, _: calls.setdefault(m)) for m in owners]
    side = backbone.input_size
    logits = backbone(torch.empty(2, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()

    assert logits.shape == (2, 7)
    numbers = [owners[module] for module in calls]
    assert set.union(*numbers) == set(range(len(stages))), "every stage takes part"
    for earlier, later in pairwise(numbers):
        assert max(earlier) <= min(later), (
            f"{stages[max(earlier)]} runs before {stages[min(later)]}"
        )


# --- the head -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "dropout"),
    [
        ("resnet18", nn.Linear, None),
        ("efficientnet_b0", nn.Linear, "classifier.0"),
        ("mobilenet_v3_small", nn.Linear, "classifier.2"),
        ("squeezenet1_0", nn.Conv2d, "classifier.0"),
    ],
)
def test_the_head_and_the_dropout_before_it(name: str, kind: type, dropout: str | None):
    backbone = small(name, classes=7)
    assert isinstance(backbone.head, kind)
    assert backbone.eval()(images()).shape == (4, 7)
    if dropout is not None:
        layer = backbone.net.get_submodule(dropout)
        published = models.get_model(name).get_submodule(dropout)
        assert isinstance(layer, nn.Dropout)
        assert isinstance(published, nn.Dropout)
        assert layer.p == published.p > 0
        assert layer in list(backbone.modules_of("head"))


def test_a_new_head_is_of_the_same_type_and_place():
    backbone = small().double()
    backbone.reset_head(5)
    assert backbone.head.weight.dtype == torch.float64
    assert backbone.eval()(images().double()).shape == (4, 5)


@pytest.mark.parametrize(
    "name", ["deit_tiny_distilled_patch16_224", "levit_128s", "crossvit_tiny_240", "volo_d1_224"]
)
def test_a_net_with_two_heads_is_refused(name: str):
    with WithoutMemory(), pytest.raises(UserError):
        pretrained.timm(name, weights=None)


def test_a_net_without_a_head_gets_one():
    with WithoutMemory():
        net = pretrained.timm("eva02_tiny_patch14_224", weights=None)  # features only: no classes
        net.reset_head(3)
    assert net.head.weight.shape == (3, 192)


@pytest.mark.parametrize(
    "last", [nn.Conv2d(4, 2, 3), nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU()), nn.ReLU()]
)
def test_a_net_that_ends_in_no_classifier_is_refused(last: nn.Module):
    with pytest.raises(UserError, match="Linear or a 1×1 Conv2d"):
        sequential(first=nn.Conv2d(3, 4, 3), last=last)


@pytest.mark.parametrize("taken", ["head", "stem"])
def test_a_block_may_be_called_head_or_stem(taken: str):
    blocks = {"a": nn.Conv2d(3, 4, 1), taken: nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 4, 1)}
    backbone = sequential(**blocks, flat=nn.Flatten(), fc=nn.Linear(4, 2))
    assert len(backbone.stages) == 4
    assert parameters_in(backbone, "stem") == {"a.weight", "a.bias"}
    assert parameters_in(backbone, "head") == {"fc.weight", "fc.bias"}


def test_a_net_whose_blocks_take_turns_is_put_in_order_or_refused():
    with WithoutMemory():  # Twins keeps its position encodings, which run between blocks, last
        try:
            backbone = pretrained.timm("twins_pcpvt_small", weights=None)
        except UserError:
            return
    owner = {n: s for s in backbone.stages for n in backbone.named_parameters_of(s)}
    order = list(backbone.stages)
    position = order.index(owner["pos_block.0.proj.0.weight"])
    assert position <= order.index(owner["blocks.0.1.norm1.weight"])
    assert position <= order.index(owner["blocks.3.0.norm1.weight"])


# --- freezing -------------------------------------------------------------------------------------


def test_a_new_backbone_trains_whole():
    backbone = small()
    assert trainable(backbone) == parameters_in(backbone, *backbone.stages)
    assert backbone.frozen_digest() == {}


def test_thaw_trains_exactly_the_stages_named():
    backbone = small()
    backbone.thaw(["stage4", "head"])
    assert trainable(backbone) == parameters_in(backbone, "stage4", "head")
    assert set(backbone.frozen_digest()) == set(backbone.stages) - {"stage4", "head"}


def test_calls_of_thaw_do_not_add_up():
    once, often = small(), small()
    once.thaw(["head"], norms=["stage4"])
    often.thaw(list(often.stages), batch_norm="train")
    often.thaw([], norms=["stem"])
    for _ in range(2):
        often.thaw(["head"], norms=["stage4"])
    assert trainable(often) == trainable(once)
    assert in_training(often) == in_training(once)


def test_a_frozen_stage_keeps_no_gradient():
    backbone = small()
    backbone(images()).sum().backward()
    backbone.thaw(["head"])
    left = {name for name, p in backbone.net.named_parameters() if p.grad is not None}
    assert left == parameters_in(backbone, "head")


def test_a_frozen_stage_stays_in_eval_mode_whoever_calls_train():
    backbone = small()
    backbone.thaw(["stage4", "head"], batch_norm="train")
    parent = nn.Sequential(backbone)
    for _ in range(2):
        parent.eval()
        assert in_training(backbone) == set()
        parent.train()
        for stage in backbone.stages:
            modes = {module.training for module in backbone.modules_of(stage)}
            assert modes == {stage in ("stage4", "head")}, stage


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_batch_norm_of_thawed_stages(batch_norm: str):
    backbone = small()
    backbone.thaw(["conv5", "head"], batch_norm=batch_norm)
    norm = backbone.net.get_submodule("conv5.1")
    before = tensors(backbone)
    take_steps(backbone, torch.optim.SGD(backbone.parameters(), lr=0.1))
    moved = {name for name in changed(backbone, before) if name.startswith("conv5.1.")}
    affine = {"conv5.1.weight", "conv5.1.bias"}
    statistics = {f"conv5.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
    assert norm.training == (batch_norm == "train")
    assert moved == (affine if batch_norm == "eval" else affine | statistics)


def test_of_stages_in_norms_only_the_affine_parameters_of_norm_layers_train():
    backbone = small()
    backbone.thaw(["head"], norms=["stage3", "conv5", "head"], batch_norm="train")
    affine = {
        f"{path}.{name}"
        for path, module in backbone.net.named_modules()
        if isinstance(module, NORMS) and path.startswith(("stage3.", "conv5."))
        for name, _ in module.named_parameters()
    }
    assert affine
    assert trainable(backbone) == affine | parameters_in(backbone, "head")
    before = tensors(backbone)
    take_steps(backbone, torch.optim.SGD(backbone.parameters(), lr=0.1))
    assert changed(backbone, before) <= affine | parameters_in(backbone, "head")
    assert changed(backbone, before) & affine, "the affine parameters did train"


@pytest.mark.parametrize(
    ("library", "name", "kwargs", "thawed"),
    [
        ("timm", "tf_efficientnet_lite0", {"drop_rate": 0.5}, "head"),  # in the net's own forward
        ("torchvision", "efficientnet_b0", {"dropout": 0.5, "stochastic_depth_prob": 0.0}, "head"),
        ("torchvision", "densenet121", {"drop_rate": 0.5}, "features.denseblock4"),
        (
            "torchvision",
            "efficientnet_b0",
            {"dropout": 0, "stochastic_depth_prob": 0.5},
            "features.6",
        ),
    ],
)
def test_dropout_acts_in_thawed_stages_alone(
    library: str, name: str, kwargs: dict[str, float], thawed: str
):
    backbone = calibrated(getattr(pretrained, library)(name, weights=None, **kwargs))

    def is_random() -> bool:
        backbone.train()
        with torch.no_grad():
            return not torch.equal(backbone(images()), backbone(images()))

    backbone.thaw([])
    assert not is_random()
    backbone.thaw([thawed])
    assert is_random()
    backbone.thaw(["stem"])
    assert not is_random()


@pytest.mark.parametrize("thawed", [["head"], ["conv5", "head"], ["stem", "stage3"]])
@pytest.mark.parametrize(
    "rule",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
def test_frozen_means_frozen(rule, thawed: list[str]):
    """Weights and BatchNorm statistics, against momentum and decay of an earlier phase."""
    backbone = small()
    optimizer = rule(backbone.parameters())  # holds every parameter in every phase
    backbone.thaw(list(backbone.stages), batch_norm="train")
    take_steps(backbone, optimizer)

    backbone.thaw(thawed, batch_norm="train")
    before, proof = tensors(backbone), backbone.frozen_digest()
    take_steps(backbone, optimizer)
    assert changed(backbone, before) == names_in(backbone, *thawed)
    assert backbone.frozen_digest() == proof


def test_one_bit_changes_the_digest_of_its_stage_alone():
    backbone = small()
    backbone.thaw([])
    before = backbone.frozen_digest()
    for stage in backbone.stages:
        held = list(backbone.named_tensors_of(stage).values())
        for tensor in (held[0], held[-1]):  # a weight, and a BatchNorm counter or a bias
            bits = tensor.detach().reshape(-1).view(torch.uint8)
            bits[-1] ^= 1
            now = backbone.frozen_digest()
            assert {name for name in now if now[name] != before[name]} == {stage}
            bits[-1] ^= 1
    assert backbone.frozen_digest() == before


def test_the_digest_does_not_cover_what_trains():
    backbone = small()
    backbone.thaw(["head"], norms=["stage3"])
    before = backbone.frozen_digest()
    with torch.no_grad():
        backbone.head.weight += 1
        backbone.net.get_parameter("stage3.0.branch1.1.weight").add_(1)
    assert backbone.frozen_digest() == before
    with torch.no_grad():
        backbone.net.get_parameter("stage3.0.branch1.0.weight").add_(1)
    after = backbone.frozen_digest()
    assert {name for name in after if after[name] != before[name]} == {"stage3"}


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2, 2, dtype=torch.int32)},
        {"a": torch.tensor([[0.0, 0.0], [0.0, -0.0]])},
    ],
    ids=["name", "shape", "type", "sign of zero"],
)
def test_the_digest_tells_names_shapes_types_and_bits(other: dict[str, Tensor]):
    assert digest({"a": torch.zeros(2, 2)}) == digest({"a": torch.zeros(2, 2)})
    assert digest({"a": torch.zeros(2, 2)}) != digest(other)


def test_the_digest_sees_values_and_not_how_they_lie_in_memory():
    tensor = torch.rand(2, 3, 4, 5)
    assert digest({"a": tensor}) == digest({"a": tensor.to(memory_format=torch.channels_last)})
