"""How far stages have come, and the net as it was before them."""

import pytest
import torch

from thaw.nets import pretrained
from thaw.report.movement import Movement
from thaw.training.schedule import Schedule
from thaw.training.unfreezing import StagedUnfreezing


def test_training_is_undone_for_a_moment(weights):
    net = pretrained.torchvision("shufflenet_v2_x0_5", str(weights("shufflenet_v2_x0_5")))
    schedule = Schedule({"last": {"train": 1, "epochs": 1, "lr": 1e-3}})
    movement = Movement(net, StagedUnfreezing(schedule))
    before = {name: t.clone() for name, t in net.net.state_dict().items()}
    with torch.no_grad():
        for stage in ("conv5", "head"):
            for tensor in net.named_tensors_of(stage).values():
                tensor.mul_(2)  # statistics of BatchNorm as well
    assert movement.of_stages() == pytest.approx({"conv5": 1.0, "head": 1.0})
    after = {name: t.clone() for name, t in net.net.state_dict().items()}
    with movement.undone():
        now = net.net.state_dict()
        assert {name for name in now if not now[name].equal(before[name])} == {
            "fc.weight",
            "fc.bias",
        }
    now = net.net.state_dict()
    assert all(now[name].equal(after[name]) for name in now)
