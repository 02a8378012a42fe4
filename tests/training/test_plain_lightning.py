"""Thaw's objects in a Trainer of the user's own, without any settings."""

from lightning.pytorch import Callback, Trainer
from torch.optim import Adam

from thaw.data.folder import PhotoFolder
from thaw.nets.pretrained import small_cnn
from thaw.training.module import Classifier
from thaw.training.schedule import Schedule
from thaw.training.unfreezing import StagedUnfreezing

OFF = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
QUIET = dict.fromkeys(OFF, False) | {"accelerator": "cpu"}


class Seen(Callback):
    """Notes which stages train in each epoch."""

    def __init__(self):
        self.trained = []

    def on_train_epoch_end(self, trainer, pl_module):
        groups = trainer.optimizers[0].param_groups
        moving = [g["stage"] for g in groups if any(p.requires_grad for p in g["params"])]
        self.trained.append(moving)


def test_a_plain_trainer_trains_all_phases(few):
    data = PhotoFolder(str(few), batch_size=8).ready()
    backbone = small_cnn(width=8, input_size=32)
    backbone.pretrained = True  # a net of random weights would train whole in every phase
    backbone.reset_head(len(data.classes))
    data.transforms = backbone.transforms
    phases = {"head": {"train": "head", "epochs": 1, "lr": 1e-2}}
    schedule = Schedule(phases | {"all": {"train": "all", "epochs": 2, "lr": 1e-2}})
    staged, seen = StagedUnfreezing(schedule), Seen()
    module = Classifier(backbone, data.classes, Adam)
    trainer = Trainer(max_epochs=schedule.epochs, callbacks=[staged, seen], **QUIET)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert seen.trained == [["head"], [*backbone.stages], [*backbone.stages]]
    assert staged.verified == ["head", "all"]
    assert module.results(0)["logits"].shape == (len(data.splits["test"]), 3)
