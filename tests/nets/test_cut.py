"""A net cut before anything that trains: both halves together are the net, bit for bit."""

import logging

import pytest
import torch
from conftest import WithoutMemory

from thaw.nets import pretrained
from thaw.nets.cut import cut

QUICK = ["shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small", "alexnet"]
SLOW = [
    *("resnet18", "densenet121", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2"),
    *("regnet_y_400mf", "efficientnet_b0", "convnext_tiny", "vgg11_bn", "swin_v2_t", "vit_b_32"),
    *("maxvit_t", "resnext50_32x4d"),
]
TIMM = [
    *("tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_femto", "mobilenetv4_conv_small"),
    *("swin_tiny_patch4_window7_224", "mixer_s32_224", "hiera_tiny_224", "ghostnet_100"),
]


def make(name, library="torchvision", **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = getattr(pretrained, library)(name, weights=None, **kwargs)
        backbone.reset_head(3)
    return backbone.to(memory_format=torch.channels_last)


def images(backbone):
    size = (2, 3, backbone.input_size, backbone.input_size)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
    return noise.contiguous(memory_format=torch.channels_last)


def check_every_boundary(backbone):
    """At each boundary of stages the halves are the net; deeper features come from shallower."""
    stages, x = list(backbone.stages), images(backbone)
    with torch.no_grad():
        whole = backbone.eval()(x)
        before, depths = None, []
        for first in range(len(stages)):
            backbone.thaw(stages[first:])
            here = cut(backbone.eval())
            assert here is not None
            features = here.between()(x)
            assert len(features) == 2
            assert torch.equal(here.tail(features.clone()), whole), stages[first]
            if before is not None:
                place, found = before
                assert torch.equal(here.between(place)(found), features), stages[first]
            before = here, features
            depths.append(here.depth)
    assert depths == sorted(depths)
    assert depths[0] == 0  # where the stem trains, all does
    assert depths[1] > 0
    return depths


@pytest.mark.parametrize("name", QUICK)
def test_halves_are_the_net_at_every_boundary(name):
    depths = check_every_boundary(make(name))
    assert len(set(depths)) == len(depths)  # each stage is cut off by itself


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_halves_are_the_net_for_every_family_of_torchvision(name):
    depths = check_every_boundary(make(name))
    assert len(set(depths)) == len(depths)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_halves_are_the_net_for_timm(name):
    check_every_boundary(make(name, "timm"))


@pytest.mark.parametrize(
    ("name", "library", "kwargs"),
    [
        ("mobilenet_v3_small", "torchvision", {}),  # a Dropout module before the head
        ("tf_efficientnet_lite0", "timm", {"drop_rate": 0.5, "drop_path_rate": 0.5}),  # functional
    ],
)
def test_training_the_tail_is_training_the_net(name, library, kwargs):
    backbone = make(name, library, **kwargs)
    x, stages = images(backbone), list(backbone.stages)
    for first in (-1, -2):
        backbone.thaw(stages[first:])
        here = cut(backbone.train())
        assert here is not None
        features = here.between()(x).detach()
        results = []
        for run in (lambda: backbone(x), lambda here=here, f=features: here.tail(f.clone())):
            torch.manual_seed(1)
            backbone.zero_grad()
            logits = run()
            logits.sum().backward()
            grads = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.requires_grad}
            results.append((logits, grads))
        (whole, expected), (tail, found) = results
        assert torch.equal(whole, tail)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        torch.manual_seed(2)
        assert not torch.equal(here.tail(features.clone()), tail)  # dropout acts
        backbone.eval()
        assert torch.equal(here.tail(features.clone()), here.tail(features.clone()))


def test_a_cut_leaves_the_net_as_it_was():
    backbone = make("mobilenet_v3_small")
    backbone.thaw(["head"])
    backbone.train()
    modes = [module.training for module in backbone.modules()]
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    cut(backbone)
    assert [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())


def test_norms_that_train_are_behind_the_cut():
    backbone = make("resnet18")
    backbone.thaw(["head"], norms=["layer4"])
    here = cut(backbone)
    assert here is not None
    assert here.node == "layer3"


def test_the_digest_tells_prefixes_apart():
    backbone = make("shufflenet_v2_x0_5")
    backbone.thaw(["head"])

    def digest():
        here = cut(backbone)
        assert here is not None
        return here.prefix_digest

    first = digest()
    with torch.no_grad():
        backbone.head.weight.add_(1)
    assert digest() == first  # the head isn't in it
    with torch.no_grad():
        next(iter(backbone.named_parameters_of("stem").values())).add_(1e-3)
    second = digest()
    assert second != first
    buffers = backbone.named_tensors_of("stem")
    next(t for n, t in buffers.items() if n.endswith("running_var")).add_(1e-3)
    assert digest() != second
    backbone.thaw(list(backbone.stages)[-2:])
    assert digest() not in (first, second)


def test_a_net_that_can_not_be_cut_says_so(caplog):
    caplog.set_level(logging.INFO)
    with WithoutMemory():
        backbone = make("shufflenet_v2_x0_5")
    forward = type(backbone.net).forward

    class Branches(type(backbone.net)):
        def forward(self, x):
            return forward(self, x if x.sum() > 0 else -x)

    backbone.net.__class__ = Branches
    backbone.thaw(["head"])
    assert cut(backbone) is None
    assert "shufflenet_v2_x0_5 can't be cut, so nothing is cached" in caplog.text
