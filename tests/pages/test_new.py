"""The form of a new job: which data, which network, the roles of columns, and what would happen."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from api.pages.jobs import CHOICES, EXAMPLES, specs_of
from bimt_engine.data.kinds.images import small_digits
from bimt_engine.data.registry import KINDS, make_dataset
from bimt_engine.networks.architecture import architectures
from bimt_engine.recipes import load_recipe, recipe_names
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from store import datasets
from tests.api.makers import now, publish_runs
from tests.engine.networks.files.makers import exported
from tests.pages.conftest import Site, Visitor

Visit = Callable[..., Visitor]


def offered(page: Any) -> list[str]:
    """The networks that can be chosen for the data."""
    return list(page.locator("#networks .choice:visible strong").all_inner_texts())


def test_every_built_in_kind_of_data_and_every_architecture_is_offered() -> None:
    assert set(EXAMPLES) == {name for name, kind in KINDS.items() if not kind.uploaded} - {"formula"}
    kinds = {str(found.model_fields["kind"].default) for found in architectures()}
    assert {choice.kind for choice in CHOICES} == kinds - {"uploaded"}
    offered = {examples for choice in CHOICES for examples in choice.recipes}
    assert offered == set(EXAMPLES.values())


@pytest.mark.parametrize("kind", sorted(set(EXAMPLES) - {"mnist"}))
def test_every_network_that_is_offered_for_built_in_data_learns_from_them(kind: str) -> None:
    found = [specs_of(choice).get(EXAMPLES[kind]) for choice in CHOICES]
    for fields in filter(None, found):
        spec = Spec.model_validate(fields | {"dataset": {"kind": kind}})
        training = Training.begin(spec, make_dataset(spec.dataset, seed=0), seed=0)
        assert next(training.updates()).row


def test_cards_of_experiments_say_where_the_paper_has_them_or_that_it_does_not() -> None:
    figures = {load_recipe(name).figure for name in recipe_names()}
    assert [each for each in figures if each and not each.startswith(("Figure", "Not in the paper"))] == []


def idx_files(folder: Path, *, packed: bool) -> list[Path]:
    """scikit-learn's digits as four files in the format of MNIST."""
    images, labels = small_digits()
    pixels = (images.reshape(-1, 8, 8) * 255).astype(np.uint8)
    parts = {
        "train-images-idx3-ubyte": pixels[:300],
        "train-labels-idx1-ubyte": labels[:300].astype(np.uint8),
        "t10k-images-idx3-ubyte": pixels[300:400],
        "t10k-labels-idx1-ubyte": labels[300:400].astype(np.uint8),
    }
    paths = []
    for name, array in parts.items():
        content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        path = folder / (name + ".gz" * packed)
        path.write_bytes(gzip.compress(content) if packed else content)
        paths.append(path)
    return paths


def preview_of(site: Site, page: Any) -> Any:
    """What the service understood of the data that are chosen on the page."""
    address = f"/api/v1/datasets/{page.input_value('#dataset')}"
    client, headers = site.service.client(), site.service.headers()
    return client.get(f"{address}/preview", headers=headers).json | client.get(address, headers=headers).json


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_the_four_files_of_mnist_are_joined_in_whatever_order_they_come(
    visit: Visit, site: Site, tmp_path: Path, packed: bool
) -> None:
    files = idx_files(tmp_path, packed=packed)
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.set_input_files("#file", [files[3], files[0]])
    page.wait_for_selector("#upload-parts:not([hidden])")
    said = page.inner_text("#upload-parts-words")
    assert "Received: 300 images of 8 × 8 pixels; 100 labels." in said
    assert "Still missing: the labels of the 300 images; the 100 images of the labels." in said
    page.set_input_files("#file", files[2])
    page.set_input_files("#file", files[1])
    page.wait_for_selector("#first-rows tr")
    assert page.locator("#upload-parts").is_hidden()
    found = preview_of(site, page)
    assert (found["rows"], found["train_rows"], found["format"]) == (400, 300, "idx")
    assert offered(page) == ["Perceptron on sheets", "Convolutional network", "network.onnx"]  # the last is the team's
    assert page.locator("input[name=network]:checked").get_attribute("value") == "grid_mlp"


def test_images_and_labels_alone_can_be_used_without_test_files(visit: Visit, site: Site, tmp_path: Path) -> None:
    files = idx_files(tmp_path, packed=True)
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.set_input_files("#file", files[:2])
    page.click("#upload-parts-use")
    page.wait_for_selector("#first-rows tr")
    found = preview_of(site, page)
    assert (found["rows"], found["train_rows"]) == (300, None)


def archive(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def test_a_zip_of_images_is_told_from_a_zip_of_texts_by_what_it_holds(visit: Visit, site: Site, tmp_path: Path) -> None:
    images = {}
    for number in range(20):
        with io.BytesIO() as file:
            Image.fromarray(np.full((6, 6), 12 * number, np.uint8)).save(file, "PNG")
            images[f"set/{'dark' if number < 10 else 'light'}/{number}.png"] = file.getvalue()
    texts = {f"book/{number}.txt": f"chapter {number}: ".encode() + b"to be or not to be " * 40 for number in range(8)}
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    for name, contents, format, networks in (
        ("pictures.zip", images, "images", ["Perceptron on sheets", "Convolutional network"]),
        ("book.zip", texts, "text", ["Transformer"]),
    ):
        page.set_input_files("#file", archive(tmp_path / name, contents))
        page.wait_for_selector(f"#dataset option:checked:has-text('{name}')", state="attached")
        page.wait_for_selector(f"#networks .choice:visible >> text={networks[0]}")
        assert preview_of(site, page)["format"] == format
        assert offered(page) == [*networks, "network.onnx"]


def test_roles_are_chosen_by_pressing_the_heads_of_columns(visit: Visit, site: Site, tmp_path: Path) -> None:
    table = tmp_path / "two.csv"
    table.write_text(
        "id,a,b,p,q\n" + "".join(f"{i},{i % 5},{i % 7}.5,{i % 5 * 2}.5,{i % 7 + 1}.5\n" for i in range(1200))
    )
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.set_input_files("#file", str(table))
    page.wait_for_selector("#first-rows tr")
    assert page.locator("#dataset option:checked").inner_text() == "two.csv (1,200 rows)"
    head = page.locator("#heads button")
    assert head.evaluate_all("all => all.map((each) => each.dataset.role)") == [
        "not used",
        "input",
        "input",
        "input",
        "target",
    ]
    assert page.inner_text("#roles-words") == "Predict q from a, b, p."
    name = "Mean outside air temperature at the roof weather station [°C]"
    wide = "(each, name) => { each.firstChild.textContent = name; return each.getBoundingClientRect().width; }"
    assert head.nth(1).evaluate(wide, name) <= 240  # it wraps, so that the other columns stay in sight
    spill = "each => each.firstChild.scrollWidth - each.clientWidth"
    for long in (name, name.replace(" ", "_")):
        head.nth(1).evaluate(wide, long)
        assert head.nth(1).evaluate(spill) <= 0  # nor does it lie over its neighbours
    head.nth(3).focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#roles-words") == "Predict p, q from a, b."
    page.wait_for_selector("#plan:has-text('Trains one network for 20,000 steps')")
    page.fill("#steps", "300")
    page.wait_for_selector("#plan:has-text('300 steps')")
    page.click("#submit")
    page.wait_for_url(re.compile("/jobs/job_"))
    assert page.inner_text("h1") == "two, perceptron"
    client, headers = site.service.client(), site.service.headers()
    job = client.get(f"/api/v1/jobs/{page.url.rsplit('/', 1)[-1]}", headers=headers).json
    assert (job["spec"]["dataset"]["inputs"], job["spec"]["dataset"]["targets"]) == (["a", "b"], ["p", "q"])
    client.post(f"/api/v1/jobs/{job['id']}/cancel", headers=headers)


def test_an_uploaded_network_waits_for_its_data_and_is_analysed(visit: Visit, site: Site, tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    (tmp_path / "mine.onnx").write_bytes(exported(network, torch.zeros(2, 4)))
    table = tmp_path / "six.csv"
    table.write_text(
        "a,b,c,d,p,q\n" + "".join(f"{i % 5}.5,{i % 7}.5,{i % 3}.5,{i}.5,{i % 4}.5,{i % 6}.5\n" for i in range(90))
    )
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.set_input_files("#file", str(tmp_path / "mine.onnx"))
    page.wait_for_selector("#plan:has-text('mine.onnx is ready. Choose the data that it reads, above.')")
    card = page.inner_text("#networks .choice:has(input:checked)")
    assert "Uploaded: onnx, 37 parameters, 4 inputs → 2 outputs." in card
    assert offered(page) == ["network.onnx", "mine.onnx"]
    assert page.locator("#experiments").is_hidden()
    assert page.locator("#submit").is_disabled()
    page.set_input_files("#file", str(table))
    page.wait_for_selector("#first-rows tr")
    assert page.locator("#networks .choice:has-text('mine.onnx') input").is_checked()
    page.wait_for_selector("#plan:has-text('reads 4 numbers of a row, and the inputs are 5 numbers')")
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]  # the browser logs the status
    page.click("#heads button[data-head=p]")
    page.select_option("#kind", "analyse")
    page.wait_for_selector("#plan:has-text('Analyses the network as it is')")
    assert not page.is_checked("#standardise")
    page.check("#standardise")
    page.wait_for_selector("#plan:has-text('will see columns scaled to mean 0 and variance 1')")
    page.uncheck("#standardise")
    page.wait_for_selector("#plan:has-text('will see the columns as they are')")
    assert page.inner_text("#submit").split() == ["Analyse", "1", "network"]
    assert page.locator("#steps").is_disabled()
    page.click("#submit")
    page.wait_for_url(re.compile("/jobs/job_"))
    client, headers = site.service.client(), site.service.headers()
    job = client.get(f"/api/v1/jobs/{page.url.rsplit('/', 1)[-1]}", headers=headers).json
    assert (job["spec"]["network"]["kind"], job["spec"]["training"]["steps"]) == ("uploaded", 0)
    assert job["spec"]["dataset"]["standardise"] is False
    client.post(f"/api/v1/jobs/{job['id']}/cancel", headers=headers)
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]


def test_after_a_refused_file_nothing_is_trained_that_was_not_chosen_since(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,a\n1,2\n3,4\n")
    (tmp_path / "bad.onnx").write_bytes(b"no network at all")
    (tmp_path / "good.csv").write_text("a,b\n" + "".join(f"{i % 5}.5,{i % 7}.5\n" for i in range(60)))
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    train = page.locator("#submit")
    page.set_input_files("#file", str(tmp_path / "bad.csv"))
    page.wait_for_selector("#plan:has-text('bad.csv cannot be used. Send it again, or choose data or an experiment')")
    assert train.is_disabled()
    page.check("#experiments input >> nth=0")
    page.wait_for_selector("#plan:has-text('“Two formulas that share no input”: Trains one network')")
    assert train.is_enabled()
    page.set_input_files("#file", str(tmp_path / "good.csv"))
    page.wait_for_selector("#first-rows tr")
    expect(train).to_be_enabled()
    page.set_input_files("#file", str(tmp_path / "bad.onnx"))
    page.wait_for_selector("#plan:has-text('bad.onnx cannot be used. Send it again, or choose a network above.')")
    assert train.is_disabled()
    page.check("#networks .choice:visible input >> nth=0")
    page.wait_for_selector("#plan:has-text('Trains one network')")
    assert train.is_enabled()
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]  # the browser logs the status


def test_the_target_is_in_sight_however_many_columns_there_are(visit: Visit, tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(49)]
    rows = [",".join(f"{(i * (7 + j)) % 31}.5" for j in range(50)) for i in range(60)]
    (tmp_path / "wide.csv").write_text("\n".join([",".join([*names, "y"]), *rows]))
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.set_input_files("#file", str(tmp_path / "wide.csv"))
    page.wait_for_selector("#first-rows tr")
    assert page.locator("#heads button").count() == 41
    assert page.get_attribute("#heads button[data-head=y]", "data-role") == "target"
    assert page.inner_text("#types summary") == "Types and ranges of all 50 columns; 9 are only here"


def test_built_in_data_are_learnt_by_an_architecture_of_ones_choice(visit: Visit, site: Site) -> None:
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.select_option("#dataset", "digits")
    page.check("input[name=network][value=conv]")
    assert page.locator("#experiments").is_hidden()
    page.click("#submit")
    page.wait_for_url(re.compile("/jobs/job_"))
    assert page.inner_text("h1") == "Digits of 8×8 pixels, convolutional network"
    client, headers = site.service.client(), site.service.headers()
    job = client.get(f"/api/v1/jobs/{page.url.rsplit('/', 1)[-1]}", headers=headers).json
    assert (job["spec"]["dataset"]["kind"], job["spec"]["network"]["kind"]) == ("digits", "conv")
    client.post(f"/api/v1/jobs/{job['id']}/cancel", headers=headers)


def test_steps_are_written_into_a_spec_that_says_nothing_of_its_training(visit: Visit) -> None:
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.click("summary:has-text('The whole spec')")
    page.fill("#spec", '{"dataset": {"kind": "digits"}}')
    page.fill("#steps", "300")
    assert json.loads(page.input_value("#spec")) == {"dataset": {"kind": "digits"}, "training": {"steps": 300}}


def test_how_long_a_job_takes_is_told_by_runs_like_it(visit: Visit, site: Site) -> None:
    client, headers = site.service.client(), site.service.headers("submitter")
    job = client.post("/api/v1/jobs", headers=headers, json={"recipe": "independence", "seeds": [0, 1]}).json
    publish_runs(site.service, job_id := job["id"])
    spec = client.get(f"/api/v1/jobs/{job_id}", headers=headers).json["spec"]
    runs = client.get(f"/api/v1/jobs/{job_id}/runs", headers=headers).json["items"]
    asked = {"spec": spec, "seeds": [5, 6, 7]}
    told = client.post("/api/v1/jobs/plan", headers=headers, json=asked).json
    first = runs[0]
    assert (told["runs"], told["steps"]) == (3, 3 * first["steps"])
    assert told["like"] == 2
    assert told["seconds"] == pytest.approx(3 * (first["training_seconds"] + first["evidence_seconds"]))
    spec["network"]["hidden"] = [3]
    unlike = client.post("/api/v1/jobs/plan", headers=headers, json=asked).json
    assert (unlike["seconds"], unlike["like"]) == (None, 0)
    wrong = client.post("/api/v1/jobs/plan", headers=headers, json={"recipe": "none"})
    assert wrong.status_code == 422
    before = client.get("/api/v1/jobs?limit=1", headers=headers).json["items"][0]["id"]
    client.post("/api/v1/jobs/plan", headers=headers, json=asked)
    assert client.get("/api/v1/jobs?limit=1", headers=headers).json["items"][0]["id"] == before


def test_what_becomes_of_missing_cells_is_told_for_the_roles_that_are_chosen(
    visit: Visit, site: Site, tmp_path: Path
) -> None:
    table = tmp_path / "fuel.csv"
    lines = [f"{i % 7}.5,{'' if i % 5 == 0 else i % 11},{i * i % 13}.25" for i in range(60)]
    table.write_text("\n".join(["weight,fuel,yield", *lines]))
    visitor = visit("submitter")
    page = visitor.page
    visitor.go("/new")
    page.set_input_files("#file", str(table))
    page.wait_for_selector("#columns tr", state="attached")
    plan = page.locator("#plan")
    expect(plan).to_contain_text("No value: fuel (12 of 60 rows). The median of the training rows stands there")
    assert "No value" not in page.inner_text("#notes")
    page.click("#types summary")
    page.select_option("#columns select[data-column='fuel']", "target")
    expect(plan).to_contain_text("No value: fuel (12 of 60 rows). These rows are left out.")
    assert "median of the training rows" not in plan.inner_text()


def test_columns_show_how_their_values_are_distributed_and_are_chosen_anywhere(
    visit: Visit, site: Site, tmp_path: Path
) -> None:
    rows = [f"{i % 7},{'red' if i % 3 else 'blue'},{'' if i % 5 else i},{i % 2}" for i in range(60)]
    path = tmp_path / "spread.csv"
    path.write_text("\n".join(["week,colour,holes,y", *rows]) + "\n")
    page = (visitor := visit("submitter")).page
    visitor.go("/new")
    page.set_input_files("#file", path)
    page.wait_for_selector("#first-rows tr")
    drawn = page.locator("#heads svg.bars")
    assert [drawn.nth(at).locator("rect").count() for at in range(3)] == [7, 2, 20]
    assert drawn.nth(1).get_attribute("aria-label") == "colour: red 40, blue 20"
    assert page.inner_text("#heads th >> nth=2").endswith("80% missing")
    page.click("#first-rows tr >> nth=1 >> td >> nth=0")
    assert page.get_attribute("#heads button >> nth=0", "data-role") == "target"
    page.wait_for_selector("#plan:has-text('Classification has one target; 2 are named.')")
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]  # the browser logs the status
    heights = drawn.nth(0).locator("rect").evaluate_all("all => all.map((each) => Number(each.getAttribute('height')))")
    visitor.go(f"/datasets/{page.input_value('#dataset')}")
    there = page.locator("svg.bars")
    assert there.nth(1).get_attribute("aria-label") == "colour: red 40, blue 20"
    again = there.nth(0).locator("rect").evaluate_all("all => all.map((each) => Number(each.getAttribute('height')))")
    assert again == pytest.approx(heights, abs=0.01)
    assert page.locator("tr:has-text('holes') >> text=80%").count() == 1


def test_a_data_set_of_an_earlier_version_shows_no_histograms(visit: Visit, site: Site) -> None:
    with site.service.database.write() as rows:
        stored = datasets.get(rows, site.service.teams["ours"], site.dataset)
        old = [{k: v for k, v in c.items() if k not in ("bins", "counts")} for c in (stored.preview or {})["columns"]]
        datasets.register(
            rows,
            team_id=stored.team_id,
            member_id=stored.member_id,
            name="old preview",
            kind="uploaded",
            sha256=stored.sha256,
            format="csv",
            preview={**(stored.preview or {}), "columns": old},
            roles=stored.roles,
            task=stored.task,
            now=now(),
        )
        made = datasets.page(rows, stored.team_id, q="old preview").rows[0].id
    page = (visitor := visit("reader")).page
    for dataset, drawn in ((made, False), (site.dataset, True)):
        visitor.go(f"/datasets/{dataset}")
        assert page.locator("tbody tr").count() > 0
        assert (page.locator("svg.bars").count() > 0) is drawn
