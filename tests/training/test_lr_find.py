"""The learning-rate finder: what it suggests, and that it leaves no trace but the rate."""

import json

import pytest
from safetensors.torch import load_file

from thaw.training.lr_find import suggest

SHORT = ["finetune.phases.head.epochs=1", "finetune.lr_find=true"]


def test_the_suggestion_is_the_steepest_fall_before_the_lowest_loss():
    rates = [10.0**-i for i in range(6, 0, -1)]
    assert suggest(rates, [2.0, 1.9, 1.0, 0.8, 3.0, 1.0]) == rates[1]
    assert suggest(rates, [1.0, 1.1, 1.2, 1.3, 2.0, 9.0]) is None


@pytest.mark.slow
def test_the_found_rate_is_used_printed_and_drawn(train, small):
    done = train(*small, *SHORT)
    assert done.code == 0, done.err
    curve = json.loads((done.run / "lr_find.json").read_text())
    assert curve["suggestion"] in curve["rates"]
    assert len(curve["rates"]) == len(curve["losses"]) > 10
    assert f"{curve['suggestion']:.2g} was found" in done.out
    assert (done.run / "figures" / "lr_find.png").stat().st_size > 10_000
    history = (done.run / "history.csv").read_text().splitlines()
    row = dict(zip(history[0].split(","), history[1].split(","), strict=True))
    assert float(row["lr/head"]) == pytest.approx(curve["suggestion"])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["head_only", "from_scratch"])
def test_the_search_leaves_no_trace_but_the_rate(train, small, few, schedule):
    phase = {"head_only": "head", "from_scratch": "all"}[schedule]
    common = [*small, f"data.root={few}", "data.batch_size=2"]  # the search takes many steps
    common += [f"finetune={schedule}", f"finetune.phases.{phase}.epochs=1"]
    found = train(*common, "finetune.lr_find=true").run
    rate = json.loads((found / "lr_find.json").read_text())["suggestion"]
    plain = train(*common, f"finetune.phases.{phase}.lr={rate}").run
    a, b = (load_file(run / "model" / "weights.safetensors") for run in (found, plain))
    assert all(a[name].equal(b[name]) for name in a)
