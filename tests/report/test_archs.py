"""`thaw archs`, and what a file of the user's own that is broken does to it: nothing."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with settings of the user's own that make no net."""
    folder = tmp_path / "conf" / "arch"
    folder.mkdir(parents=True)
    (folder / "absent.yaml").write_text("_target_: no_such_module.tiny\n")
    (folder / "typo.yaml").write_text("_target_: thaw.nets.pretrained.timm\nname: resnet81\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_nets_are_listed_with_what_is_known(call_script, hub: Path, offline, broken):
    (hub / "resnet18-f37072fd.pth").touch()
    done = call_script("archs", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    rows = {row["arch"]: row for row in found["archs"]}
    assert rows["efficientnet_lite0"]["weights"] == "here"
    assert rows["resnet18"]["weights"] == "here"
    assert rows["resnet50"]["weights"] == "by download"
    assert rows["small_cnn"]["weights"] == "none"
    assert rows["vit_small_dinov3"]["licence"] == "dinov3-license"
    assert rows["vit_small_dinov2"]["pixels"] == 224
    # Known from elsewhere: what is counted isn't built in earnest.
    assert rows["resnet18"]["parameters"] == 11_689_512
    assert rows["vit_b_16"]["parameters"] == 86_567_656
    assert rows["regnety_004"]["accuracy"] == pytest.approx(75.804)
    assert offline == []
    assert "no_such_module" in found["broken"]["absent"]
    assert "resnet18" in found["broken"]["typo"]


@pytest.mark.slow
def test_the_table_of_heads_is_shown_whatever_is_broken(call_script, broken):
    done = call_script("describe", "--all")
    assert done.code == 0, done.err
    assert "efficientnet_lite0" in done.out
    assert "absent: arch._target_=no_such_module.tiny can't be imported" in done.out
