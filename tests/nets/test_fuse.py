"""A frozen part with convolution, BatchNorm and activation in one step says what the net says."""

import pytest
import torch
from torch import nn

from thaw.nets import pretrained
from thaw.nets.cut import cut
from thaw.nets.fuse import FusedConv, fused

QUICK = ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
SLOW = ["densenet121", "googlenet", "mnasnet0_5", "regnet_y_400mf", "vgg11_bn", "convnext_tiny"]
TIMM = ["tf_efficientnet_lite0", "tf_mobilenetv3_small_100", "ghostnet_100"]


def frozen_part(name, library="torchvision"):
    """All but the head, with BatchNorm's statistics and scales as if it had been trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = getattr(pretrained, library)(name, weights=None)
        backbone.reset_head(3)
        for module in backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    backbone.arrange(torch.channels_last)
    backbone.thaw({"head"})
    here = cut(backbone.eval())
    assert here is not None
    return here.between()


def noise(*shape):
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return pixels.contiguous(memory_format=torch.channels_last)


def count(part, kind):
    return sum(isinstance(module, kind) for module in part.modules())


def check(part, images):
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    fast = fused(part)
    with torch.inference_mode():
        features, found = part(images), fast(images)
        again = fast(images)
    assert features.abs().max() > 1e-3  # a dead net would prove nothing
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5 * features.abs().max().item())
    assert torch.equal(found, again)
    assert all(torch.equal(before[name], tensor) for name, tensor in part.state_dict().items())
    return fast


@pytest.mark.parametrize("name", QUICK)
def test_it_says_what_the_net_says(name):
    fast = check(frozen_part(name), noise(2, 3, 96, 96))
    assert count(fast, FusedConv) > 10
    assert count(fast, nn.BatchNorm2d) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_it_says_what_other_families_say(name):
    assert count(check(frozen_part(name), noise(2, 3, 96, 96)), FusedConv) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("size", [(96, 96), (97, 90)])
def test_it_pads_as_tensorflow_does_at_any_size(name, size):
    fast = check(frozen_part(name, "timm"), noise(2, 3, *size))
    assert count(fast, nn.modules.batchnorm._BatchNorm) == 0


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_that_depends_on_the_size(size, kernel, stride):
    from timm.layers import Conv2dSame

    conv = Conv2dSame(3, 4, kernel, stride)
    check(nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU6()).eval(), noise(2, 3, size, size + 1))


def test_only_what_nothing_else_reads_is_taken_in():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.twice = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            self.bn, self.other, self.relu = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x):
            x = self.conv(x)
            y = self.bn(x) + x  # the convolution's own result is read as well
            return self.relu(self.other(self.twice(y))) + self.twice(x)  # one layer, two places

    net = Net().eval()
    for module in (net.bn, net.other):
        module.running_mean.uniform_(-1, 1)
    fast = check(net, noise(2, 3, 8, 8))
    assert count(fast, FusedConv) == 1
    assert count(fast, nn.BatchNorm2d) == 2


def test_a_batch_norm_with_another_activation_in_two_places():
    from timm.layers import BatchNormAct2d

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.bn = BatchNormAct2d(3, act_layer=nn.Tanh)

        def forward(self, x):
            return self.bn(self.two(self.bn(self.one(x)) + x))

    net = Net().eval()
    net.bn.running_mean.uniform_(-1, 1)
    assert count(check(net, noise(2, 3, 8, 8)), FusedConv) == 2


def test_without_convolutions_it_comes_back():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert fused(net) is net


def test_what_can_not_be_traced_stays_as_it_is():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    net = Decides()
    assert fused(net) is net


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16"
)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_bfloat16_is_as_near_as_autocast_is(name):
    part, images = frozen_part(name), noise(4, 3, 96, 96)
    with torch.inference_mode():
        exact = part(images)
        fast = fused(part, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            usual, found = part(images), fast(images)
    assert count(fast, FusedConv) > 10
    assert found.dtype is torch.bfloat16
    assert (found - exact).norm() < 1.2 * (usual - exact).norm()
