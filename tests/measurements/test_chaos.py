"""The short form of `make chaos`: whatever breaks meanwhile, every job ends once, with the bits of a quiet run."""

from __future__ import annotations

import importlib.util
import random

import pytest
from rich.console import Console

from measurements import chaos
from standalone.broker import BrokerError, server_binary
from standalone.database import DatabaseError, install_folder


def test_every_kind_of_fault_is_drawn_before_one_comes_again() -> None:
    names = list(chaos.drawn(random.Random(5), 2 * len(chaos.FAULTS) + 1))
    kinds = len(chaos.FAULTS)
    assert set(names[:kinds]) == set(names[kinds : 2 * kinds]) == set(chaos.FAULTS)
    assert names == list(chaos.drawn(random.Random(5), 2 * kinds + 1)), "the order follows from the seed"


@pytest.mark.faults
def test_six_jobs_survive_fifteen_faults() -> None:
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask_cors") is None:
        pytest.skip("no S3 service here: pip install 'moto[s3]' flask-cors")
    try:
        server_binary(), install_folder()
    except (BrokerError, DatabaseError) as error:
        pytest.skip(str(error))
    report = chaos.disturb(6, 15, seed=100, pause=1.0, small=True, console=Console(quiet=True))
    assert report["shortfalls"] == []
    assert report["jobs"] == 6
    assert sum(report["faults"].values()) - report["faults"].get(chaos.NOTHING, 0) == 15
