"""The client against a real service: everything from a file on the disk to a network in torch."""

from __future__ import annotations

import itertools
import json

import networkx
import pandas
import pytest
from PIL import Image

from bimt import (
    Client,
    Conflict,
    InvalidFields,
    JobEnded,
    NotAllowed,
    NotFound,
    NotInstalled,
    NotLoggedIn,
    Unreachable,
)
from bimt.http import version
from bimt.login import Login, find_login, forget_login, login_file, write_login
from tests.client.conftest import QUICK, TINY

torch = pytest.importorskip("torch")

# --- access -----------------------------------------------------------------------------------------------


def test_me_is_the_member_of_the_token(client):
    me = client.me()
    assert me["role"] == "admin"
    assert me["member_id"].startswith("member_")


def test_an_unknown_token_is_refused_with_the_service_s_sentence(service):
    with Client(service.address, "bimt_unknown", retry=QUICK) as stranger, pytest.raises(NotAllowed) as refused:
        stranger.me()
    assert refused.value.status == 401
    assert "unknown, expired or revoked" in str(refused.value)


def test_a_token_that_may_only_read_cannot_submit(service, client):
    text = client.mint_token("reader", ["read"])["token"]
    with Client(service.address, text) as reader:
        assert list(reader.jobs.search(limit=1)) is not None
        with pytest.raises(NotAllowed, match="scope `submit`"):
            reader.jobs.submit(recipe="independence")


def test_address_and_token_come_from_the_call_the_environment_or_the_file(tmp_path):
    environ = {"BIMT_LOGIN_FILE": str(tmp_path / "deep" / "login.json")}
    with pytest.raises(NotLoggedIn, match="bimt login ADDRESS"):
        find_login(environ=environ)
    write_login(Login("http://127.0.0.1:8080", "bimt_file"), environ)
    assert login_file(environ).stat().st_mode & 0o777 == 0o600
    assert find_login(environ=environ) == Login("http://127.0.0.1:8080", "bimt_file")
    assert find_login(environ=environ | {"BIMT_TOKEN": "bimt_env"}).token == "bimt_env"
    assert find_login("127.0.0.1:8080/", "bimt_call", environ=environ) == Login("http://127.0.0.1:8080", "bimt_call")
    with pytest.raises(NotLoggedIn, match="No token for https://elsewhere.example"):
        find_login("elsewhere.example", environ=environ)  # the token of one service never goes to another
    assert forget_login(environ)
    assert not forget_login(environ)


def test_a_damaged_login_file_counts_as_none(tmp_path):
    environ = {"BIMT_LOGIN_FILE": str(tmp_path / "login.json")}
    login_file(environ).write_text("{not json")
    with pytest.raises(NotLoggedIn):
        find_login(environ=environ)


@pytest.mark.parametrize("address", ["ftp://somewhere", "http://", "://"])
def test_what_is_no_address_is_said_to_be_none(address):
    with pytest.raises(NotLoggedIn, match="is no address"):
        Client(address, "bimt_x")


def test_a_service_that_does_not_listen_is_named_in_a_sentence(tmp_path):
    with Client("http://127.0.0.1:9", "bimt_x", retry=QUICK) as nowhere, pytest.raises(Unreachable) as gone:
        nowhere.me()
    assert "http://127.0.0.1:9 did not answer 6 times" in str(gone.value)


# --- data -------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_data_set_with_roles(client, table):
    dataset = client.datasets.upload(table, targets="price", task="regression", standardise=False)
    assert (dataset.name, dataset.rows, dataset.columns, dataset.state) == ("houses.csv", 40, 3, "ready")
    assert dataset.roles["inputs"] == ["rooms", "age"]
    assert dataset.roles["standardise"] is False
    assert [column["name"] for column in dataset.preview()["columns"]] == ["rooms", "age", "price"]
    assert dataset.download(table.with_name("back.csv")).read_bytes() == table.read_bytes()
    assert repr(dataset) == f"<Dataset {dataset.id} · houses.csv · 40 × 3 · regression>"


def test_roles_and_names_can_be_changed(client, table, trained):
    dataset = client.datasets.upload(table, targets=["price"]).change(inputs=["rooms"], targets=["age"], name="ages")
    assert (dataset.name, dataset.roles["inputs"], dataset.roles["targets"]) == ("ages", ["rooms"], ["age"])
    kept = trained.change(pinned=True, tags=["tests", "kept"])
    assert (kept.pinned, sorted(kept.tags), kept.state) == (True, ["kept", "tests"], "succeeded")
    assert not kept.change(pinned=False, tags=["tests"]).pinned


def test_every_fault_of_a_file_is_named_with_row_and_column(client, tmp_path):
    path = tmp_path / "bad.csv"
    rows = [f"{number},{number % 7}" for number in range(30)]
    rows[1] = "1,2.3.4"
    path.write_text("\n".join(["a,b", *rows, ""]))
    with pytest.raises(InvalidFields) as refused:
        client.datasets.upload(path, targets="b", task="regression", inputs=["a"])
    assert refused.value.slug == "unusable-data"
    assert any(field.row == 2 and field.column == "b" for field in refused.value.fields)
    assert "Row 2, column 'b' holds '2.3.4'" in str(refused.value)


def test_a_maker_is_named_by_its_fields(client):
    made = client.datasets.make("two formulas", kind="formula", inputs=2, formulas=["x1*x2"])
    assert made.kind == "made"
    assert made.maker["formulas"] == ["x1*x2"]
    assert made.id in {each.id for each in client.datasets.search("two formulas")}
    made.delete()
    with pytest.raises(NotFound):
        made.refresh()


def test_a_list_is_read_only_as_far_as_it_is_asked_for(client):
    names = [f"page {number}" for number in range(5)]
    for name in names:
        client.datasets.make(name, kind="two_moons")
    found = list(client.datasets.search("page ", limit=3))
    assert [each.name for each in found] == ["page 4", "page 3", "page 2"]
    one_by_one = itertools.chain(client.http.items("/datasets", q="page ", limit=2))
    assert len(list(one_by_one)) == 2
    assert len(list(client.datasets.search("page "))) == 5


# --- jobs -------------------------------------------------------------------------------------------------


def test_recipes_can_be_changed_and_submitted(client):
    assert "independence" in [recipe.name for recipe in client.recipes.all()]
    recipe = client.recipes.get("independence")
    assert not recipe.needs_dataset
    spec = recipe.spec | {"training": recipe.spec["training"] | {"steps": 3}}
    job = client.jobs.submit(spec=spec, tags=["changed"])
    assert job.spec["training"]["steps"] == 3
    assert job.cancel().id == job.id
    assert client.jobs.submit(spec=spec, cost_strengths="auto").cancel().document["runs"] == 7
    assert [each.id for each in client.jobs.search(tag="changed")] == [job.id]


def test_a_job_is_waited_for_and_gives_its_runs(trained):
    assert trained.state == "succeeded"
    assert trained.progress == 1.0
    runs = trained.runs()
    assert [run.seed for run in runs] == [0, 1]
    assert all(run.state == "succeeded" for run in runs)
    assert any("is done" in line["text"] for line in trained.logs())
    assert repr(trained) == f"<Job {trained.id} · trained · succeeded>"


def test_wrong_fields_are_all_named_with_their_pointers(client):
    with pytest.raises(InvalidFields) as refused:
        client.jobs.submit(spec=TINY | {"colour": "red"}, seeds=[-1, 2])
    assert [field.pointer for field in refused.value.fields] == ["/spec/colour", "/seeds/0"]
    assert "/seeds/0: Input should be greater than or equal to 0" in str(refused.value)
    assert refused.value.retryable is False
    assert refused.value.request_id


def test_a_plan_says_what_a_submission_would_do_and_stores_nothing(client, trained):
    before = [job.id for job in client.jobs.search(limit=3)]
    plan = client.jobs.plan(spec=TINY, seeds=[0, 1], cost_strengths=[0.01, 0.1], tags=["tests"])
    assert (plan.runs, plan.steps) == (4, 4 * 1500)
    assert plan.like >= 2
    assert plan.seconds is not None
    assert plan.seconds > 0
    assert plan.memory_bytes is None or plan.memory_bytes > 1 << 20
    assert client.jobs.plan(recipe="independence").runs == 1
    assert [job.id for job in client.jobs.search(limit=3)] == before
    with pytest.raises(InvalidFields) as caught:
        client.jobs.plan(recipe="independence", seeds=[-1], priority=12)
    assert [field.pointer for field in caught.value.fields] == ["/seeds/0", "/priority"]


def test_modules_have_the_names_that_people_gave_them(client, trained):
    run = trained.runs()[1]
    letter = run.modules()[0].name
    assert run.names() == {}
    given = run.give_name(letter, "sum", note="Adds.")[letter]
    assert (given.name, given.note, given.number) == ("sum", "Adds.", 1)
    assert given.member_id == client.me()["member_id"]
    assert given.at.tzinfo is not None
    assert run.names() == {letter: given}
    with pytest.raises(Conflict):
        run.give_name(letter, "another")  # as if it had none
    assert run.give_name(letter, "the sum", replaces=1)[letter].number == 2
    with pytest.raises(NotFound, match="no module or group"):
        run.give_name("ZZ", "no such module")
    assert run.take_name(letter, replaces=2).get(letter) is None


def test_the_same_key_gives_the_same_job_and_another_body_is_a_conflict(client):
    first = client.jobs.submit(spec=TINY, name="keyed", idempotency_key="once-and-only")
    again = client.jobs.submit(spec=TINY, name="keyed", idempotency_key="once-and-only")
    assert again.id == first.id
    with pytest.raises(Conflict):
        client.jobs.submit(spec=TINY, name="another", idempotency_key="once-and-only")
    first.cancel()


def test_a_cancelled_job_that_was_waited_for_is_an_error(long_job):
    job = long_job()
    job.cancel()
    with pytest.raises(JobEnded, match="was cancelled") as ended:
        job.wait(timeout=60)
    assert ended.value.state == "cancelled"


def test_waiting_ends_in_time_and_the_job_goes_on(long_job):
    job = long_job()
    with pytest.raises(TimeoutError, match="it goes on"):
        job.wait(timeout=1.5)
    assert job.refresh().state in ("queued", "running")


def test_a_retried_job_is_queued_again(long_job):
    job = long_job()
    job.cancel()
    for _ in job.events(timeout=60):
        pass
    assert job.retry().state == "queued"


# --- runs -------------------------------------------------------------------------------------------------


def test_a_graph_has_the_neurons_and_connections_of_the_run(run):
    graph = run.graph()
    assert isinstance(graph, networkx.MultiDiGraph)
    assert graph.number_of_edges() == run.connections
    assert {data["layer"] for _, data in graph.nodes(data=True)} == {"input", "hidden1", "output"}
    heaviest = run.graph(connections=3)
    weights = sorted((abs(w) for *_, w in graph.edges(data="weight")), reverse=True)
    assert sorted((abs(w) for *_, w in heaviest.edges(data="weight")), reverse=True) == weights[:3]


def test_a_history_is_a_table_with_the_step_as_its_index(run):
    history = run.history()
    assert isinstance(history, pandas.DataFrame)
    assert list(history.index) == list(range(0, 1501, 100))
    assert {"prediction_loss", "connection_cost", "cost_strength"} <= set(history.columns)


def test_modules_are_described_in_words(run):
    modules = run.modules()
    assert len(modules) == run.modules_found
    assert all(str(module).startswith(f"module {module.name}") for module in modules)
    assert {name for module in modules for name in module.outputs} == {"y1", "y2"}


def test_what_is_inside_the_modules_is_plain_data(run):
    inside = run.interior()
    assert inside["layers"][0]["layer"] == "hidden1"
    assert inside["reading"]


def test_effects_curve_communities_and_snapshots_are_plain_data(run):
    assert run.effects()
    assert "modularity" in json.dumps(run.communities())
    assert run.prune_curve()[0].keys() >= {"connections"}
    assert [kept["step"] for kept in run.snapshots()] == [0, 500, 1000, 1500]


def test_what_is_made_when_first_asked_for_is_waited_for(run, tmp_path):
    first = run.module_weights("A", tmp_path / "a.safetensors").read_bytes()
    assert len(first) > 500
    assert run.module_weights("A", tmp_path / "again.safetensors").read_bytes() == first
    assert [each["output"] for each in run.readout()["outputs"]] == ["y1", "y2"]
    assert set(run.snapshot(500)["orders"]) == {"input", "hidden1", "output"}
    with pytest.raises(Conflict, match="tokens"):
        run.embedding()


@pytest.mark.slow
def test_films_and_onnx_files_are_waited_for_too(run, tmp_path):
    assert run.onnx(tmp_path / "network.onnx").stat().st_size > 1000
    assert run.onnx(tmp_path / "a.onnx", module="A").stat().st_size > 500
    assert run.film(tmp_path / "film.gif", format="gif").read_bytes().startswith(b"GIF8")


def test_the_runs_of_a_job_say_together_how_far_they_agree_and_what_wiring_costs(trained):
    stability, pareto = trained.stability(), trained.pareto()
    assert stability["runs"] == 2
    assert "runs divide inputs and outputs the same way" in stability["reading"]
    assert [point["seed"] for point in pareto["points"]] == [0, 1]
    assert any(point["efficient"] for point in pareto["points"])
    assert b"<svg" in trained.figure("pareto").content
    assert trained.stability() == stability


def test_pictures_are_displayed_by_notebooks(run, tmp_path):
    drawn = run.figure("network")
    assert "<svg" in drawn._repr_svg_()
    assert drawn._repr_png_() is None
    Image.open(run.figure("network", "png").save(tmp_path / "network.png")).verify()
    with pytest.raises(NotFound, match=r"it has .*network\.svg"):
        run.figure("nonsense")


def test_everything_of_a_run_can_be_downloaded(run, tmp_path):
    written = {str(path.relative_to(tmp_path)) for path in run.download(tmp_path)}
    assert {"run.json", "graph.json", "graph.graphml", "weights.safetensors", "figures/network.svg"} <= written
    assert json.loads((tmp_path / "run.json").read_text())["id"] == run.id
    assert not list(tmp_path.rglob("*.part"))
    assert networkx.read_graphml(tmp_path / "graph.graphml").number_of_edges() == run.connections


def test_a_loaded_network_gives_the_service_s_own_numbers(client, run):
    network = run.load()
    graph = run.graph()
    inputs = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(10, 3)
    assert network.feature_names == ["x1", "x2", "x3"]
    assert torch.isfinite(network(inputs)).all()
    kept = sum(int(mask.sum()) for name, mask in network.masks.items() if name.startswith("weights."))
    assert kept == graph.number_of_edges()
    for _, _, data in graph.edges(data=True):
        weight = network.get_parameter(data["parameter"])[data["row"], data["column"]]
        assert weight.item() == pytest.approx(data["weight"], abs=1e-12)


def test_runs_are_found_by_what_was_found_in_them(client, run):
    assert run.id in {each.id for each in client.runs.search(state="succeeded", min_modules=1)}
    assert list(client.runs.search(max_connections=0, min_modules=100)) == []
    module = next(module for module in run.modules() if module.inputs)
    assert run.id in {each.id for each in client.runs.search(reads=module.inputs[0], moves=module.outputs[0])}
    assert list(client.runs.search(reads="no such column")) == []
    found = run.refresh().interior_modules
    assert run.id not in {each.id for each in client.runs.search(min_interior_modules=found + 1)}


def test_a_package_that_is_absent_is_asked_for_in_a_sentence(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    with pytest.raises(NotInstalled, match=r"needs networkx: pip install") as absent:
        run.graph()
    served = f"{run.http.url}/client/bimt_client-{version()}-py3-none-any.whl"
    assert f'pip install "bimt-client[graphs] @ {served}"' in str(absent.value)
    assert "pip install './client[graphs]'" in str(absent.value)
    assert "run.graph_document()" in str(absent.value)
    assert isinstance(absent.value, ImportError)
