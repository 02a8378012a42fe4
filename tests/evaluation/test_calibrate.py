"""One temperature from val's logits: right on many photos, harmless on few."""

import pytest
import torch
from torch.nn import functional as F

from thaw.evaluation import calibrate


def drawn(photos: int, classes: int, too_sure: float, seed: int = 0):
    """Logits that are `too_sure` times as large as they should be, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(photos, classes, generator=generator)
    labels = logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    return too_sure * logits, labels


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("too_sure", [0.3, 1.0, 4.0])
def test_many_photos_tell_the_temperature(classes, too_sure):
    assert calibrate.fit(*drawn(20_000, classes, too_sure)) == pytest.approx(too_sure, rel=0.05)


@pytest.mark.parametrize("photos", [1, 3, 36, 300])
@pytest.mark.parametrize("seed", range(8))
def test_the_loss_on_val_never_gets_worse(photos, seed):
    logits, labels = drawn(photos, 3, too_sure=1.0 + seed % 3, seed=seed)
    temperature = calibrate.fit(logits, labels)
    before, after = (F.cross_entropy(logits.double() / t, labels) for t in (1.0, temperature))
    assert after <= before + 1e-12


def test_it_is_the_minimum_that_it_says():
    logits, labels = drawn(36, 3, too_sure=2.0)

    def objective(temperature):
        loss = F.cross_entropy(logits.double() / temperature, labels, reduction="sum")
        beta = torch.tensor(1 / temperature, dtype=torch.double)
        return float(loss + calibrate.PRIOR * (beta - 1 - beta.log()))

    found = calibrate.fit(logits, labels)
    others = torch.linspace(0.1, 10, 2000).tolist()
    assert objective(found) <= min(map(objective, others))
    assert 1 < found < 4


def test_photos_that_are_all_right_do_not_make_it_certain():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(18, 1)
    labels = torch.tensor([0, 1]).repeat(18)
    temperature = calibrate.fit(logits, labels)
    # Without the prior the loss would go on falling to a temperature of 0.
    assert 0.3 < temperature < 0.9


def test_photos_that_are_all_wrong_make_it_as_unsure_as_it_may_be():
    logits = torch.tensor([[90.0, 0.0]]).repeat(200, 1)
    temperature = calibrate.fit(logits, torch.ones(200, dtype=torch.long))
    assert temperature == pytest.approx(calibrate.LIMITS[1])


def test_photos_that_tell_nothing_clearly_change_nothing():
    """Where 1 is right it stays 1, but for about 1 set of val photos in 20."""
    found = [calibrate.fit(*drawn(36, 3, too_sure=1.0, seed=seed)) for seed in range(200)]
    assert 2 <= sum(temperature != 1 for temperature in found) <= 20
    assert calibrate.fit(torch.tensor([[2.0, 0.0]]), torch.tensor([0])) == 1
