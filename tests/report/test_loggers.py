"""What other programs than TensorBoard are told when a run ends."""

from pathlib import Path

from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from made_up import run

from thaw.report.loggers import log_result, make_loggers


class Recorder:
    """Stands for a logger's client: remembers what it is asked to do."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name):
        return lambda *values: self.calls.append((name, *values))


class Wandb(WandbLogger):
    def __init__(self) -> None:
        self.told = Recorder()
        for name in ("log_image", "log_text", "log_metrics", "log_hyperparams", "save"):
            setattr(self, name, getattr(self.told, name))


class MLFlow(MLFlowLogger):
    experiment = property(lambda self: self.told)
    run_id = property(lambda self: "7")

    def __init__(self) -> None:
        self.told = Recorder()
        for name in ("log_metrics", "log_hyperparams", "save"):
            setattr(self, name, lambda *_: None)


def test_others_get_figures_and_texts(tmp_path):
    folder = run(tmp_path, 2, 3)
    (folder / "figures").mkdir()
    figure = folder / "figures" / "confusion.png"
    figure.write_bytes(b"png")
    wandb, mlflow = Wandb(), MLFlow()
    log_result([wandb, mlflow], {"seed": 1}, {"accuracy/test": 0.5}, 3, folder)
    assert ("log_image", "figures/confusion", [str(figure)]) in wandb.told.calls
    ((_, _, columns, rows),) = [call for call in wandb.told.calls if call[0] == "log_text"]
    assert columns == ["about", "text"]
    assert "2 verdict" in dict(rows)
    assert ("log_artifact", "7", str(figure)) in mlflow.experiment.calls
    ((_, _, text, name),) = [c for c in mlflow.experiment.calls if c[0] == "log_text"]
    assert name == "texts.md"
    assert "labelled right" in text


def test_mlflow_keeps_its_files_beside_its_database(monkeypatch):
    asked: dict = {}
    monkeypatch.setattr("thaw.report.loggers.all_made", lambda *a: asked.update(a[1]) or {})
    node = {"tracking_uri": "sqlite:///outputs/mlflow.db", "artifact_location": None}
    make_loggers({"mlflow": node}, Path("run"))
    assert asked["mlflow"]["artifact_location"].endswith("/outputs/mlflow")
    far = node | {"tracking_uri": "https://tracking.example"}
    make_loggers({"mlflow": far}, Path("run"))
    assert asked["mlflow"]["artifact_location"] is None
