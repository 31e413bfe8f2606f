"""A network of one's own through the service: uploaded, analysed on images, trained, shared, and taken back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import nn

from bimt import Client, Conflict, InvalidFields
from bimt_engine.exports.weights import load_bundle
from tests.end_to_end.test_supervisor import served
from tests.engine.networks.files.makers import said_by

EVIDENCE = {"tolerance": 0.05, "random_groups": 10, "leiden_seeds": 1, "refit_evaluations": 5}


class Lines(nn.Module):
    """Which third of a small image is bright: a convolution, a pool, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(nn.functional.max_pool2d(torch.relu(self.kernel(x)), 2).flatten(1))


def images(count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 0.4, (count, 6, 6))
    rows = draw.integers(6, size=count)
    x[np.arange(count), rows] += 0.6
    return x.astype(np.float32), rows // 2


def trained_module() -> nn.Module:
    torch.manual_seed(0)
    module, (x, y) = Lines(), images()
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(x)[:, None]), torch.from_numpy(y))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.2
    return module.eval()


@pytest.fixture(scope="module")
def client(lasting_url: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    database = lasting_url(tmp_path_factory.mktemp("database"))
    with served(BIMT_DATABASE_URL=database) as up, Client(up.address, up.token) as made:
        yield made


def test_a_convolution_is_analysed_trained_shared_and_taken_back(client: Client, tmp_path: Path) -> None:
    x, y = images()
    path = tmp_path / "lines.npz"
    np.savez(path, image=x.reshape(len(x), -1), third=y)
    data = client.datasets.upload(path, targets="third", task="classification", standardise=False)
    module = trained_module()
    network = client.networks.upload(module, example=torch.from_numpy(x)[:2, None], name="lines")

    more: dict[str, Any] = {"dataset": data, "network": network}
    job = client.jobs.submit(kind="analyse", spec={"evidence": EVIDENCE}, **more).wait(timeout=300)
    assert (job.steps, job.network_id) == (0, network.id)
    run = job.runs()[0]
    assert run.state == "succeeded"
    assert run.modules()
    back = run.network_file(tmp_path / "back.onnx").read_bytes()
    probabilities = torch.tensor(run.predict(x[:6].reshape(6, -1).tolist())["probabilities"])
    theirs = torch.softmax(torch.from_numpy(said_by(back, x[:6, None])), -1)
    np.testing.assert_allclose(theirs, probabilities, rtol=0, atol=1e-5)
    whole = run.predict(x[:6].reshape(6, -1).tolist(), network="trained")["probabilities"]
    with torch.no_grad():
        mine = torch.softmax(module(torch.from_numpy(x[:6, None])), -1)
    np.testing.assert_allclose(whole, mine, rtol=0, atol=1e-5)  # moved, not changed

    saved = load_bundle(run.bundle(tmp_path / "run.zip"))  # without the service
    inputs = torch.from_numpy(x[:6].reshape(6, -1)).double()
    np.testing.assert_allclose(saved.network(inputs).softmax(-1).detach(), probabilities, rtol=0, atol=1e-6)

    network.delete()  # the run keeps what it needs
    assert run.predict(x[:1].reshape(1, -1).tolist())["labels"]
    version = client.models.publish(run, "lines")
    assert version.verify()["agrees"]
    assert httpx.get(version.share()["url"]).status_code == 200


def test_training_starts_from_the_weights_of_the_file(client: Client, tmp_path: Path) -> None:
    module = trained_module()
    x, y = images()
    path = tmp_path / "lines.npz"
    np.savez(path, image=x.reshape(len(x), -1), third=y)
    data = client.datasets.upload(path, targets="third", task="classification", standardise=False)
    network = client.networks.upload(module, example=torch.from_numpy(x)[:2, None], name="lines")
    training = {"steps": 60, "log_every": 20, "snapshot_every": None, "phases": [{"until": 1.0, "cost_strength": 1e-4}]}
    spec = {"training": training, "evidence": EVIDENCE}
    job = client.jobs.submit(spec=spec, dataset=data, network=network, seeds=[0, 1]).wait(timeout=300)
    for run in job.runs():
        first = run.history_rows()[0]
        assert first["prediction_loss"] < 0.3


def test_what_does_not_fit_is_said(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidFields, match="network_id"):
        client.jobs.submit(kind="analyse", recipe="independence")
    module = nn.Sequential(nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 2))
    network = client.networks.upload(module, example=torch.randn(2, 7))
    data = client.datasets.make("two", kind="formula", inputs=4, formulas=["x1", "x2"], train=40, test=20)
    job = client.jobs.submit(kind="analyse", dataset=data, network=network)
    for _ in job.events(timeout=120):
        pass
    [run] = job.runs()
    assert "reads 7 numbers" in (run.reason or job.refresh().reason)
    client.http.post(f"/jobs/{job.id}/retry")
    with pytest.raises(Conflict, match="still needs network"):
        network.delete()


def test_the_program_of_the_document_runs(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skl2onnx", reason="skl2onnx writes scikit-learn's networks as ONNX")
    page = (Path(__file__).parents[2] / "docs" / "uploaded-networks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {"client": client}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that it could train longer
        exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), known)
    assert "connections are left" in capsys.readouterr().out
    flat = known["flat"]
    theirs = said_by(Path("pruned.onnx").read_bytes(), flat[:20], 1)
    ours = known["run"].predict(flat[:20].tolist())["probabilities"]
    np.testing.assert_allclose([list(row.values()) for row in theirs], ours, rtol=0, atol=1e-5)
