"""The kernel is built once, by whatever compiler is there, and is never needed."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.spec import TrainingSpec
from bimt_engine.training.backends import choose_stepper, kernel
from bimt_engine.training.backends.kernel import KernelUnavailable, find_compiler, load_kernel
from bimt_engine.training.backends.kernel.stepper import KernelStepper


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own, and no memory of kernels loaded before."""
    folder = tmp_path / "kernels"
    monkeypatch.setenv("BIMT_KERNEL_CACHE", str(folder))
    kernel.load_kernel.cache_clear()
    yield folder
    kernel.load_kernel.cache_clear()


@pytest.fixture
def compiler() -> str:
    try:
        return find_compiler()
    except KernelUnavailable as error:
        pytest.skip(f"no kernel here: {error}")


@pytest.fixture
def table() -> Dataset:
    x = np.linspace(-1, 1, 40).reshape(20, 2)
    return Dataset(x, x[:, :1], x, x[:, :1], "regression", ("x1", "x2"), ("y1",))


def choose(table: Dataset, *, hidden: tuple[int, ...] = (20, 20), **training: object) -> type:
    spec = TrainingSpec(device="cpu", **training)
    network = build_network(
        MlpNetwork(hidden=list(hidden)), table, precision=spec.precision, generator=torch.Generator()
    )
    return choose_stepper(network, table, spec)


def test_without_a_compiler_training_goes_through_torch(
    empty_cache: Path, table: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(empty_cache))
    monkeypatch.delenv("CXX", raising=False)
    assert choose(table).name == "batched"
    with caplog.at_level("WARNING"):
        assert choose(table, stepper="kernel").name == "batched"
    assert "no C++ compiler: none of c++, g++, clang++ is installed" in caplog.text


def test_a_compiler_that_is_named_but_missing_is_named_in_the_reason(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(KernelUnavailable, match=r"\$CXX names `/nowhere/c\+\+`, which is not there"):
        load_kernel("perceptron", "float64")


def test_a_compiler_that_fails_is_quoted(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(script(tmp_path / "broken", 'echo "no room for headers" >&2; exit 1')))
    with pytest.raises(KernelUnavailable, match="no room for headers"):
        load_kernel("perceptron", "float64")
    assert not list(empty_cache.glob("*.so"))
    assert not list(empty_cache.glob("building-*"))


def test_a_folder_that_cannot_be_written_is_a_reason_not_a_crash(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BIMT_KERNEL_CACHE", str(tmp_path / "file" / "below"))
    kernel.load_kernel.cache_clear()
    with pytest.raises(KernelUnavailable, match="cannot be kept in"):
        load_kernel("perceptron", "float64")
    kernel.load_kernel.cache_clear()


@pytest.fixture
def builds(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each kernel that was built from here on. They are not optimised, which takes a third of
    the time: these tests ask when something is built, not how well."""
    counted = tmp_path / "builds"
    counted.touch()
    line = f'case "$*" in *-shared*) echo >> {counted};; esac; exec {compiler} "$@" -O0'
    monkeypatch.setenv("CXX", str(script(tmp_path / "counting", line)))
    return counted


def test_a_kernel_is_built_once_and_found_by_the_next_process_and_a_damaged_one_anew(
    empty_cache: Path, builds: Path
) -> None:
    def count() -> int:
        subprocess.run([sys.executable, "-c", LOAD], check=True, timeout=300)
        return len(builds.read_text().splitlines())

    assert [count(), count()] == [1, 1]
    (library,) = empty_cache.glob("perceptron-float32-*.so")
    library.write_bytes(b"half a library")
    assert count() == 2
    assert library.stat().st_size > 10_000


def test_many_processes_may_build_at_once(empty_cache: Path, builds: Path) -> None:
    several = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(3)]
    assert [process.wait(timeout=300) for process in several] == [0, 0, 0]
    assert [path.suffix for path in empty_cache.iterdir()] == [".so"]


def test_loading_a_kernel_leaves_denormal_numbers_alone(compiler: str) -> None:
    load_kernel("perceptron", "float64")
    assert np.float64(5e-324) * np.float64(1.0) == np.float64(5e-324)
    assert float(torch.tensor(1e-310, dtype=torch.float64) * 0.5) > 0


def test_asked_for_by_name_a_stepper_is_used(compiler: str, table: Dataset) -> None:
    assert choose(table).name == KernelStepper.name
    assert [choose(table, stepper=name).name for name in ("kernel", "batched", "autograd")] == [
        "kernel",
        "batched",
        "autograd",
    ]


def test_large_matrices_are_left_to_torch_unless_the_kernel_is_asked_for(compiler: str, table: Dataset) -> None:
    assert choose(table, hidden=(700, 700)).name == "batched"
    assert choose(table, hidden=(700, 700), stepper="kernel").name == "kernel"


LOAD = "from bimt_engine.training.backends.kernel import load_kernel; load_kernel('perceptron', 'float32')"


def script(path: Path, line: str) -> Path:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
