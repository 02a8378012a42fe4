"""A part that trains with its BatchNorms folded in has the logits and gradients of the part."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from thaw.nets import pretrained
from thaw.nets.fold import FoldedConv, folded

QUICK = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
SLOW = ["densenet121", "googlenet", "mnasnet0_5", "regnet_y_400mf", "convnext_tiny"]
TIMM = ["tf_efficientnet_lite0", "ghostnet_100"]


def make(name, library="torchvision", dtype=torch.float64):
    """A net with statistics as if it had been trained, in train mode, all but them thawed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = getattr(pretrained, library)(name, weights=None).to(dtype)
        backbone.reset_head(3)
        for module in backbone.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    backbone.arrange(torch.channels_last)
    backbone.train().thaw([*backbone.stages])
    return backbone


def step(run, part, images, autocast=False):
    """Loss and gradients, with the same dropout each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        part.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(run(images), torch.arange(len(images)) % 3)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in part.named_parameters()}


def noise(*shape, dtype=torch.float64):
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return pixels.contiguous(memory_format=torch.channels_last)


def check(part, images):
    """In float64 what is left of a difference is rounding."""
    run = folded(part)
    loss, gradients = step(part, part, images)
    found, own = step(run, part, images)
    torch.testing.assert_close(found, loss, rtol=1e-9, atol=0)
    assert sum(gradient.abs().sum() > 0 for gradient in gradients.values()) > 1
    for name, gradient in gradients.items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(own[name], gradient, rtol=1e-6, atol=1e-7 * size)
    return sum(isinstance(module, FoldedConv) for module in run.__self__.modules())


@pytest.mark.parametrize("name", QUICK)
def test_logits_and_gradients_are_those_of_the_net(name):
    assert check(make(name).net, noise(3, 3, 96, 96)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_those_of_other_families(name):
    assert check(make(name).net, noise(3, 3, 96, 96)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("size", [(96, 96), (97, 90)])
def test_those_of_timm_at_any_size(name, size):
    assert check(make(name, "timm").net, noise(3, 3, *size)) > 10


def test_weights_of_the_moment_count():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    run, images = folded(net), noise(2, 3, 5, 5, dtype=torch.float32)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor += 1
    torch.testing.assert_close(run(images), net(images))


def test_statistics_that_move_are_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    images = noise(2, 3, 5, 5, dtype=torch.float32)
    folded(net)(images)
    assert net[1].num_batches_tracked == 1


def test_what_reads_the_convolution_itself_still_does():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.twice = (
                nn.Conv2d(3, 3, 1),
                nn.BatchNorm2d(3),
                nn.BatchNorm2d(3),
            )

        def forward(self, x):
            x = self.conv(x)
            x = self.bn(x) + x
            return self.twice(self.conv(self.twice(self.conv(x)))).mean(dim=(2, 3))

    net = Net().double().eval()
    for module in (net.bn, net.twice):
        module.running_mean.uniform_(-1, 1)
    assert check(net, noise(3, 3, 4, 4)) == 2


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias"), ("input",)])
def test_depthwise_gradients_in_bfloat16(kernel, stride, frozen):
    conv = nn.Conv2d(8, 8, kernel, stride, padding=1, groups=8)
    images = noise(2, 8, 9, 9, dtype=torch.float32)
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        inputs = images.clone().requires_grad_("input" not in frozen)
        for name, parameter in conv.named_parameters():
            parameter.requires_grad_(name not in frozen)
        conv.zero_grad()
        with torch.autocast("cpu", kind, enabled=kind is torch.bfloat16):
            made = folded(nn.Sequential(conv))(inputs)
        assert made.dtype is kind
        made.float().square().sum().backward()
        found[kind] = [inputs.grad, conv.weight.grad, conv.bias.grad]
    for exact, rounded in zip(*found.values(), strict=True):
        assert (exact is None) == (rounded is None)
        if exact is not None:
            size = exact.abs().max().item()
            torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * size)


def test_nothing_to_fold_is_the_part_itself():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert folded(net).__self__ is net


def test_what_can_not_be_traced_stays_as_it_is():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    net = Decides()
    assert folded(net).__self__ is net
