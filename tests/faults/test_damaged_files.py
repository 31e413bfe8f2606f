"""One flipped bit in any kind of stored file: no answer is made of it, the sentence names the damage, and it is healed.

Everything real: a table is uploaded, a network is trained on it, exported, and uploaded as a network of its own.
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from store import runs
from store.errors import DamagedFile
from tests.end_to_end.processes import Service, service_in, tiny_spec
from tests.faults.test_disk_full import BOUNDARY, BYTES, TABLE, form, upload
from tests.servers import flip_a_bit, overwrite, peek

pytestmark = pytest.mark.faults
QUESTION = {"inputs": [[2.0]]}
IS_DAMAGED = b"damaged"


@dataclass(frozen=True)
class World:
    """A service with one of each kind of stored file."""

    house: Service
    dataset: str
    network: str
    job: str
    run: str
    spec: dict[str, Any]

    def ask(self, method: str, path: str, body: Any = None, **more: str) -> tuple[int, bytes]:
        return self.house.ask(method, path, body, **more)

    def made(self, method: str, path: str, body: Any = None, **more: str) -> dict[str, Any]:
        status, answer = self.ask(method, path, body, **more)
        assert status in (200, 201, 202), answer
        return json.loads(answer)

    def train(self, **more: Any) -> str:
        """Submit the same training; the id of the job once it has ended."""
        job = self.made("POST", "/jobs", {"dataset": self.dataset, "spec": self.spec, "seeds": [0]} | more)["id"]
        self.house.until_ended(job)
        return str(job)

    def train_again(self) -> None:
        assert self.house.job(self.train()).state == "succeeded"

    def of_the_run(self, kind: str) -> str:
        """The SHA-256 of a stored file of the run."""
        with self.house.database.read() as session:
            if kind == "weights":
                return runs.published_file(session, self.run, "weights.safetensors").sha256
            if kind == "figure":
                return next(file.sha256 for file in runs.figures(session, self.run) if file.name == "network.svg")
            return runs.snapshots(session, self.run)[0].sha256


def upload_network(world: World, content: bytes) -> tuple[int, bytes]:
    return world.ask(
        "POST", "/networks", form(content, "small.onnx"), content_type=f"multipart/form-data; boundary={BOUNDARY}"
    )


@pytest.fixture(scope="module")
def world(lasting_url: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with service_in(tmp_path_factory.mktemp("damaged"), lasting_url) as house:
        house.api()
        house.scheduler()
        house.worker()
        house.worker("operations", queue="interactive")
        yield furnished(house)


def furnished(house: Service) -> World:
    spec = tiny_spec(steps=1000).model_dump(mode="json")
    del spec["dataset"]
    house.until(lambda: house.ask("GET", "/me")[0] == 200, "the API answers")
    dataset = json.loads(upload(house, TABLE)[1])["id"]
    house.until(lambda: b'"ready"' in house.ask("GET", f"/datasets/{dataset}")[1], "the table is checked")
    world = World(house, dataset, "", "", "", spec)
    job = world.train()
    assert house.job(job).state == "succeeded", house.job(job).reason
    run = house.runs(job)[0].id
    world.made("POST", "/models", {"run_id": run, "name": "whole"})
    onnx = house.until(
        lambda: found[1] if (found := world.ask("GET", f"/runs/{run}/model.onnx?wait=30"))[0] == 200 else None, "ONNX"
    )
    world = World(house, dataset, "", job, run, spec)
    network = json.loads(upload_network(world, onnx)[1])["id"]
    house.until(lambda: b'"ready"' in house.ask("GET", f"/networks/{network}")[1], "the network is checked")
    return World(house, dataset, network, job, run, spec)


@dataclass(frozen=True)
class Kind:
    """A kind of stored file: its name in the store, what is asked of it, and how it is whole again.

    asks   (method, path, body) of requests that are answered from its bytes; RUN stands for the run's id.
    job    fields of a job that needs it, which fails, and whose reason names the damage.
    """

    sha256: Callable[[World], str]
    asks: tuple[tuple[str, str, Any], ...]
    heal: Callable[[World, bytes], object]
    job: dict[str, Any] | None = None


VERIFY = ("POST", "/models/whole/versions/1/verify?wait=30", None)
KINDS = {
    "data set": Kind(
        lambda world: world.made("GET", f"/datasets/{world.dataset}")["sha256"],
        (("GET", "/datasets/DATASET/content", None), ("POST", "/runs/RUN/predict?wait=30", QUESTION)),
        lambda world, content: upload(world.house, content),
        {},
    ),
    "network": Kind(
        lambda world: world.made("GET", f"/networks/{world.network}")["sha256"],
        (("GET", "/networks/NETWORK/file", None),),
        upload_network,
        {"kind": "analyse", "network_id": "NETWORK"},
    ),
    "weights": Kind(
        lambda world: world.of_the_run("weights"),
        (
            ("GET", "/runs/RUN/weights.safetensors", None),
            ("GET", "/runs/RUN/bundle.zip", None),
            ("POST", "/runs/RUN/predict?wait=30", QUESTION),
            VERIFY,
        ),
        lambda world, _: world.train_again(),
    ),
    "snapshot": Kind(
        lambda world: world.of_the_run("snapshot"),
        (("GET", "/runs/RUN/snapshots/STEP", None), ("GET", "/runs/RUN/film.gif?wait=30", None), VERIFY),
        lambda world, _: world.train_again(),
    ),
    "figure": Kind(
        lambda world: world.of_the_run("figure"),
        (("GET", "/runs/RUN/figures/network.svg", None), VERIFY),
        lambda world, _: world.train_again(),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_named_and_healed(world: World, name: str) -> None:
    kind, house = KINDS[name], world.house
    sha256 = kind.sha256(world)
    with house.database.read() as session:
        step = runs.snapshots(session, world.run)[0].step
    names = {"DATASET": world.dataset, "NETWORK": world.network, "RUN": world.run, "STEP": str(step)}

    def answered(method: str, path: str, body: Any) -> tuple[int, bytes]:
        for word, value in names.items():
            path = path.replace(word, value)
        return house.until(lambda: found if (found := world.ask(method, path, body))[0] != 202 else None, path)

    whole = peek(house.files, sha256)
    damaged = flip_a_bit(house.files, sha256)
    for ask in kind.asks:
        status, said = answered(*ask)
        assert status in (409, 500), (ask, status, said[:300])
        assert IS_DAMAGED in said, (ask, said[:300])
        assert damaged not in said
    if kind.job is not None:
        more = {field: world.network if value == "NETWORK" else value for field, value in kind.job.items()}
        spec = {key: value for key, value in world.spec.items() if key != "network" or not more}
        job = house.job(world.train(spec=spec, **more))
        assert job.state == "failed"
        assert IS_DAMAGED.decode() in job.reason
    kind.heal(world, whole)
    assert peek(house.files, sha256) == whole
    for ask in kind.asks:
        status, said = answered(*ask)
        assert status == 200, (ask, said[:300])


def test_a_damaged_checkpoint_costs_time_and_no_bit(house: Service, undisturbed: list[str]) -> None:
    """The next worker finds that it cannot be read, and trains from the beginning."""
    house.scheduler()
    worker = house.worker("first")
    job = house.submit()
    house.until_checkpoint(job)
    worker.send(signal.SIGKILL)
    house.until(lambda: house.job(job).state == "queued", "the lease lapses")
    sha256 = house.runs(job)[0].checkpoint_sha256
    assert sha256 is not None
    flip_a_bit(house.files, sha256)
    house.worker("second")
    ended = house.until_ended(job)
    assert ended.state == "succeeded", ended.reason
    assert house.weights(job) == undisturbed[:1]
    assert "It was a checkpoint: training starts from the beginning." in house.log(job)
    assert "goes on at step" not in house.log(job)
    steps = [row["step"] for row in house.history(job)]
    assert steps == sorted(set(steps))


def test_a_damaged_part_of_an_upload_becomes_no_data_set(world: World) -> None:
    """The part is sent again, which replaces it, and the upload is completed."""
    halves = TABLE[:100], TABLE[100:]
    begun = world.made("POST", "/uploads", {"name": "parts.csv", "bytes": len(TABLE)})["id"]
    starts = (0, 100)

    def send(number: int) -> None:
        path = f"/uploads/{begun}/parts/{starts[number]}"
        world.made("PUT", path, halves[number], content_type=BYTES)

    for number in (0, 1):
        send(number)
    files, name = world.house.files, hashlib.sha256(halves[0]).hexdigest()
    overwrite(files, name, b"X" + halves[0][1:])
    with pytest.raises(DamagedFile):
        files.verify(name)
    status, said = world.ask("POST", f"/uploads/{begun}/complete")
    assert (status, IS_DAMAGED in said) == (500, True), said
    send(0)
    became = world.made("POST", f"/uploads/{begun}/complete")
    assert became["sha256"] == world.made("GET", f"/datasets/{world.dataset}")["sha256"]
