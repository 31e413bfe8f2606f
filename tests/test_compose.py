"""The check of docker-compose.yml finds what it is there to find: each way to open a service is a fault."""

from __future__ import annotations

import copy
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
_found = importlib.util.spec_from_file_location("compose_check", REPOSITORY / ".ci" / "compose.py")
assert _found is not None
assert _found.loader is not None
check = importlib.util.module_from_spec(_found)
_found.loader.exec_module(check)


def without(service: str, key: str) -> Callable[[dict[str, Any]], object]:
    return lambda compose: compose["services"][service].pop(key)


def with_(service: str, **more: Any) -> Callable[[dict[str, Any]], object]:
    return lambda compose: compose["services"][service].update(more)


def variable(service: str, name: str, value: str) -> Callable[[dict[str, Any]], object]:
    return lambda compose: compose["services"][service]["environment"].update({name: value})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without("worker", "read_only"), "worker: must have read_only"),
        (without("postgres", "cap_drop"), "postgres: must have cap_drop"),
        (without("valkey", "security_opt"), "valkey: must have security_opt"),
        (without("operations", "mem_limit"), "operations: has no mem_limit"),
        (without("objects", "pids_limit"), "objects: has no pids_limit"),
        (without("scheduler", "networks"), "scheduler: has no networks"),
        (with_("postgres", image="postgres:18"), "postgres:18 is no exact version"),
        (with_("valkey", image="valkey/valkey"), "valkey/valkey is no exact version"),
        (with_("api", ports=["127.0.0.1:8080:8000"]), "api: publishes 127.0.0.1:8080:8000"),
        (with_("proxy", ports=["443:8443"]), "on all addresses"),
        (with_("objects", ports=["0.0.0.0:8333:8333"]), "on all addresses"),
        (variable("postgres", "POSTGRES_PASSWORD", "bimt"), "POSTGRES_PASSWORD has a default"),
        (variable("valkey", "REDISCLI_AUTH_KEY", "${REDISCLI_AUTH_KEY:-secret}"), "REDISCLI_AUTH_KEY has a default"),
        (variable("worker", "BIMT_SECRET_KEY", "${BIMT_SECRET_KEY:?}"), "worker: gets BIMT_SECRET_KEY"),
        (lambda compose: compose["networks"].update(inside=None), "`inside` must be internal"),
        (with_("proxy", volumes=["./deploy/other.yml:/etc/proxy.yml:ro"]), "mounts ./deploy/other.yml"),
        (with_("worker", networks=["elsewhere"]), "network elsewhere is not declared"),
        (with_("worker", privileged=True), "privileged"),
    ],
)
def test_every_opening_is_a_fault(change: Callable[[dict[str, Any]], object], fault: str) -> None:
    opened = copy.deepcopy(COMPOSE)
    change(opened)
    assert any(fault in sentence for sentence in check.faults(opened, DOCKERFILE))


def test_the_file_as_it_is_has_none() -> None:
    assert check.faults(COMPOSE, DOCKERFILE) == []
