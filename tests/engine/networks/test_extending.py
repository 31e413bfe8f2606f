"""docs/extending.md is right: its architecture and its dataset kind work by being put into their folders."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

WHOLE_WAY = """
    import sys

    import bimt_engine.data.kinds
    import bimt_engine.networks

    bimt_engine.networks.__path__.append(sys.argv[1])
    bimt_engine.data.kinds.__path__.append(sys.argv[2])

    from bimt_engine.spec import Spec, spec_schema

    assert "torch" not in sys.modules
    assert {"SkipMlpNetwork", "SpiralData"} <= set(spec_schema()["$defs"])
    spec = Spec.model_validate(
        {
            "dataset": {"kind": "spiral", "train": 60, "test": 40},
            "network": {"kind": "skip_mlp"},
            "training": {"steps": 300, "relocation": {"relocate_every": 100}, "snapshot_every": 100},
            "evidence": {"tolerance": 0.02, "random_groups": 10, "leiden_seeds": 2},
        }
    )

    import torch

    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.data.registry import make_dataset
    from bimt_engine.exports.onnx import onnx_file
    from bimt_engine.exports.weights import load_weights, weights_file
    from bimt_engine.figures.registry import draw_run_figures
    from bimt_engine.training.loop import Training

    data = make_dataset(spec.dataset, seed=0)
    training = Training.begin(spec, data, seed=0)
    for _ in training.updates():
        pass
    evidence = gather_evidence(training.network, data, spec, seed=0, nulls=2)
    assert evidence.graph.connections
    assert {"network", "decision"} <= set(draw_run_figures(evidence, data))
    content = weights_file(training.network, evidence.network, spec=spec, seed=0, dataset=data)
    x = torch.from_numpy(data.test_inputs)
    assert torch.equal(load_weights(content).network(x), evidence.network(x))
    assert onnx_file(evidence.network, data)
    print("the whole way")
"""


@pytest.fixture(scope="module")
def blocks(repository: pathlib.Path) -> dict[str, str]:
    """The tested code of the page by the path it is to lie at."""
    page = (repository / "docs" / "extending.md").read_text()
    found = re.findall(r"\(\*tested\*\), `(bimt_engine/[^`]+)`:\n\n```python\n(.*?)```", page, re.DOTALL)
    return dict(found)


def test_an_architecture_and_a_dataset_kind_from_the_page_go_the_whole_way(
    blocks: dict[str, str], tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    folders = {"bimt_engine/networks": tmp_path / "networks", "bimt_engine/data/kinds": tmp_path / "kinds"}
    for path, text in blocks.items():
        folder = folders[str(pathlib.PurePosixPath(path).parent)]
        folder.mkdir(exist_ok=True)
        (folder / pathlib.PurePosixPath(path).name).write_text(text)
    command = [sys.executable, "-c", textwrap.dedent(WHOLE_WAY), *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the whole way" in done.stdout
