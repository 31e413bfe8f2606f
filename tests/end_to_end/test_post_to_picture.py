"""The embedded default and the team set-up take data from POST to picture; only settings differ."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from standalone.broker import BrokerError, server_binary
from standalone.database import PostgresServer
from standalone.process import Process
from tests.end_to_end.processes import REPOSITORY
from tests.end_to_end.requests import use_everything
from tests.end_to_end.test_supervisor import Up, wait_for
from tests.servers import files_of, on_sqlite_or_folder, short_folder

SECRETS = {
    "POSTGRES_PASSWORD": "rows-are-the-truth",
    "VALKEY_PASSWORD": "messages-are-hints",
    "BIMT_SECRET_KEY": "k" * 64,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    try:
        server_binary()
    except BrokerError as error:
        pytest.skip(str(error))
    with short_folder() as made:
        yield made


@on_sqlite_or_folder
def test_the_embedded_default_takes_data_from_post_to_picture(folder):
    up = Up(folder / "home").ready()
    try:
        run = use_everything(up.address, up.token)
        page = httpx.get(f"{up.address}/runs/{run['id']}", headers={"Authorization": f"Bearer {up.token}"})
        assert page.status_code in (200, 303)
        assert up.end() == 0
    finally:
        up.end(9)


class Compose:
    """The services of docker-compose.yml as plain processes: their own commands and settings, other addresses."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.folder = folder
        self.postgres = postgres
        self.services: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
        self.ports = {"api": free_port(), "valkey": free_port()}
        self.processes: list[Process] = []

    def address_of(self, text: str) -> str:
        """A text of the file with secrets filled in, and with this machine's addresses for the network's."""
        text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: SECRETS[found[1]], text)
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        sockets = self.postgres.url.partition("?")[2]
        return (
            text.replace("@postgres/bimt", f"@/bimt?{sockets}")
            .replace("valkey:6379", f"127.0.0.1:{self.ports['valkey']}")
            .replace("/data", str(self.folder / "data"))
        )

    def environment(self, service: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
        given = self.services[service]["environment"]
        image = dict(re.findall(r"(BIMT_\w+)=(\S+)", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")))
        assert (image["BIMT_HOST"], image["BIMT_PORT"]) == ("0.0.0.0", "8000")
        here = {"BIMT_HOST": "127.0.0.1", "BIMT_PORT": str(self.ports["api"]), "PYTHONUNBUFFERED": "1"}
        here |= files_of(self.folder)
        return clean | {name: self.address_of(str(value)) for name, value in given.items()} | here

    def command(self, service: str) -> list[str]:
        words = self.services[service].get("command") or self.default_command(self.services[service]["build"]["target"])
        words = [self.address_of(word) for word in words]
        if words[0] in ("python", "celery"):
            words = [
                sys.executable,
                *(["-m"] if words[0] != "python" else []),
                *words[0 if words[0] != "python" else 1 :],
            ]
        if words[0] == "valkey-server":
            data = self.folder / "valkey"
            data.mkdir()
            here = ["--port", str(self.ports["valkey"]), "--bind", "127.0.0.1", "--dir", str(data)]
            words = [str(server_binary()), *words[1:], *here]
        return words

    @staticmethod
    def default_command(target: str) -> list[str]:
        """The CMD of a stage of the Dockerfile."""
        dockerfile = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
        stage = dockerfile.split(f" AS {target}\n", 1)[1].split("\nFROM ", 1)[0]
        words: list[str] = json.loads(re.findall(r"^CMD (.*)$", stage, re.MULTILINE)[-1])
        return words

    def start(self, service: str) -> Process:
        process = Process(
            service,
            self.command(service),
            log=self.folder / f"{service}.log",
            environment=self.environment(service),
            folder=REPOSITORY,
        )
        process.start()
        self.processes.append(process)
        return process

    def run(self, service: str) -> None:
        subprocess.run(self.command(service), env=self.environment(service), cwd=REPOSITORY, check=True)

    def first_token(self) -> str:
        """What the manual says to run in the API's container; a second time it refuses."""
        command = [sys.executable, "-m", "store.admin_cli", "bootstrap-token"]
        run = partial(
            subprocess.run, command, env=self.environment("api"), cwd=REPOSITORY, capture_output=True, text=True
        )
        first, second = run(check=True), run(check=False)
        assert (second.returncode, second.stdout) == (1, "")
        return first.stdout.strip()

    def healthy(self, service: str) -> bool:
        """What the container's health check says."""
        _, *words = self.services[service]["healthcheck"]["test"]
        words = [word.replace("127.0.0.1:8000", f"127.0.0.1:{self.ports['api']}") for word in words]
        command = [sys.executable, *words[1:]]
        return not subprocess.run(
            command, env=self.environment(service), cwd=REPOSITORY, check=False, capture_output=True
        ).returncode

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def compose(folder: Path, postgres_server: PostgresServer) -> Iterator[Compose]:
    """The team set-up with an empty database of its own, and a password that is asked for."""
    with psycopg.connect(postgres_server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE ROLE bimt LOGIN PASSWORD 'rows-are-the-truth'")
        connection.execute("CREATE DATABASE bimt OWNER bimt")
    (folder / "data").mkdir()
    made = Compose(folder, postgres_server)
    yield made
    made.stop()
    with psycopg.connect(postgres_server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP DATABASE bimt WITH (FORCE)")
        connection.execute("DROP ROLE bimt")


def test_the_team_set_up_does_the_same_with_the_settings_of_docker_compose(compose):
    compose.start("valkey")
    compose.run("migrate")
    for service in ("api", "scheduler", "worker", "operations"):
        compose.start(service)
    token = compose.first_token()
    address = f"http://127.0.0.1:{compose.ports['api']}"
    wait_for(lambda: answers(f"{address}/readyz"), "the service is ready")
    use_everything(address, token)
    for service in ("api", "scheduler", "worker", "operations"):
        assert compose.healthy(service), service
    for worker in [process for process in compose.processes if process.name in ("worker", "operations")]:
        assert worker.stop() == 0
    assert not compose.healthy("worker")


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
