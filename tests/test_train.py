"""Whole runs through `train.py`."""




def test_a_run_leaves_a_complete_folder(train, small):
    done = train(
        *small,
        "finetune=gradual",
        "finetune.phases.head.epochs=1",
        "finetune.phases.last.epochs=1",
        "finetune.phases.all.epochs=1",
    )
    assert done.code == 0, done.err
    names = {path.name for path in done.run.iterdir()}
    assert names >= {".hydra", "train.log", "status.json", "metrics.json"}
