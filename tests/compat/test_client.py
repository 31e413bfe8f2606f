"""The client keeps what users rely on: names, parameters, fields, verbs, options, exit codes.

client.json was taken from the version before. Each entry must work as itself, as an alias with a deprecation warning,
or stand in WITHDRAWN with its reason.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import bimt
from bimt.command import EXIT_CODES, cli

BEFORE: dict[str, Any] = json.loads(Path(__file__).with_name("client.json").read_text(encoding="utf-8"))

# Classes and functions that were imported from a module of `bimt`, and where they are now.
MOVED = {
    "bimt.recipes.Recipes": "bimt.jobs.Recipes",
    "bimt.weights_file.WeightsError": "bimt.WeightsError",
    "bimt.weights_file.read_weights": "bimt.networks.read_weights",
}
WITHDRAWN = {
    "the modules bars, following, patience, recipes, things, uploads, weights_file, wire": (
        "no page named them; docs/client.md names bimt, bimt.networks and bimt.webhooks only"
    ),
    "the parameter `wire` of constructors and of(document, wire)": "only the client itself makes these objects",
    "LoadedNetwork.enter and its constructor": "load_network makes these objects; enter was a step of forward",
    "read_weights without torch": "safetensors reads the tensors; safetensors.safe_open reads a header alone",
    "abbreviated options (--cost for --cost-strengths)": "a new option would change what an abbreviation means",
    "bash before 4.4 and `_bimt`, the name of bash's function": "click's own completion needs and names them so",
}
INTERNAL_PARAMETERS = {"wire", "said"}  # see WITHDRAWN
INTERNAL_METHODS = {"enter"}
# Sentences of the help that were reworded: verb → the new one.
REWORDED = {
    "share": "Make a link that shows one version to anyone who has it.",
    "verify": "Recompute the claims of a version from its weights; the exit code is 1 where one does not agree.",
    "open": "Open a page of the service in the browser.",
    "runs": "List the runs of a job, or those of the team that match filters.",
    "login": "Store an address and a token for later calls.",
    "show": "Show what was found in a run.",
    "modules": "Show what the modules of a run read and change, and the groups inside them.",
    "publish": "Publish a run under a name, so that it is kept and can be found.",
}

# Defaults that were changed: verb and option → the new one.
CHANGED_DEFAULTS = {("pareto", "--tolerance"): None}  # 0.05 called losses harmless that were hundreds of times the best


def found(name: str) -> Any:
    """What a name means now; deprecated names may warn."""
    name = MOVED.get(name, name if name.startswith("bimt.") else f"bimt.{name}")
    module, _, attribute = name.rpartition(".")
    if module.endswith(".networks"):
        pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(importlib.import_module(module), attribute)


def parameters(function: Any) -> set[str]:
    """The names of its parameters."""
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", BEFORE["classes"])
def test_every_class_has_the_attributes_and_parameters_of_the_version_before(name):
    before, now = BEFORE["classes"][name], found(name)
    assert set(before["bases"]) - {"Thing"} <= {base.__name__ for base in now.__mro__}
    fields = before.get("fields") or {}
    now_fields = {field.name for field in dataclasses.fields(now)} if dataclasses.is_dataclass(now) else set()
    for attribute in (*fields, *before.get("properties", [])):
        assert attribute in now_fields or hasattr(now, attribute), attribute
    if "init" in before and not issubclass(now, Exception):
        assert set(before["init"]) - INTERNAL_PARAMETERS <= parameters(now.__init__)
    for method, names in before["methods"].items():
        if method not in INTERNAL_METHODS:
            assert set(names) - INTERNAL_PARAMETERS <= parameters(getattr(now, method)), method


@pytest.mark.parametrize("name", BEFORE["functions"])
def test_every_function_takes_the_parameters_of_the_version_before(name):
    assert set(BEFORE["functions"][name]) <= parameters(found(name))


def test_the_client_has_every_kind_of_resource():
    client = bimt.Client("http://127.0.0.1:9", "bimt_x")
    with pytest.warns(DeprecationWarning, match=r"Client\.wire is deprecated, use Client\.http"):
        assert client.wire is client.http
    assert set(BEFORE["client"]) - {"wire"} <= vars(client).keys()


@pytest.mark.parametrize(
    ("old", "new"), [("AnswerFailed", "OperationFailed"), ("Moment", "JobEvent"), ("Patience", "RetryPolicy")]
)
def test_old_names_of_the_package_warn_and_name_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=rf"bimt\.{old} is deprecated, use bimt\.{new}"):
        kind = getattr(bimt, old)
    assert issubclass(kind, getattr(bimt, new))
    with pytest.raises(AttributeError, match="nonsense"):
        bimt.nonsense  # noqa: B018


def test_patience_still_says_how_often_a_request_is_sent():
    slept: list[float] = []
    patience = found("Patience")(attempts=3, first=0.5, longest=1.0, contact=9, chance=lambda: 1.0, sleep=slept.append)
    with pytest.warns(DeprecationWarning, match="retry=…"):
        client = bimt.Client("http://127.0.0.1:9", "bimt_x", patience=patience)
    with pytest.raises(bimt.Unreachable, match="did not answer 3 times"):
        client.me()
    assert slept == [0.5, 1.0]
    assert (patience.first, patience.longest, patience.contact, patience.pause(9)) == (0.5, 1.0, 9, 1.0)


def test_things_of_the_service_still_have_their_old_attribute_wire():
    client = bimt.Client("http://127.0.0.1:9", "bimt_x")
    webhook = bimt.Webhook.of({"id": "webhook_1"}, client.http)
    with pytest.warns(DeprecationWarning, match=r"Webhook\.wire is deprecated, use Webhook\.http"):
        assert webhook.wire is client.http


# --- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", BEFORE["verbs"])
def test_every_verb_takes_its_arguments_and_options(verb):
    before, now = BEFORE["verbs"][verb], cli.commands[verb]
    help_option = now.get_help_option(click.Context(now, **cli.context_settings))
    options = {
        name: each for each in (*now.params, help_option) for name in each.opts if isinstance(each, click.Option)
    }
    for names, option in before["options"].items():
        for name in names.split():
            same = options[name]
            assert same.is_flag is not option["value"], name
            assert same.multiple is option["repeats"], name
            if option["choices"]:
                assert set(option["choices"]) <= set(same.type.choices), name
            if option["default"] not in (None, []):
                shown = [0] if same.default == "0" else same.default
                assert shown == CHANGED_DEFAULTS.get((verb, name), option["default"]), name
    arguments = [each for each in now.params if isinstance(each, click.Argument)]
    assert [(each.name, each.required) for each in arguments] == [
        (argument["name"], argument["required"]) for argument in before["arguments"]
    ]
    for each, argument in zip(arguments, before["arguments"], strict=True):
        assert argument["choices"] is None or set(argument["choices"]) <= set(each.type.choices)


@pytest.mark.parametrize("verb", BEFORE["verbs"])
def test_the_help_of_every_verb_begins_with_its_sentence(verb):
    shown = CliRunner().invoke(cli, [verb, "--help"], prog_name="bimt")
    assert shown.exit_code == 0
    usage, text = shown.output.split("\n\n")[:2]
    assert usage.startswith(f"Usage: bimt {verb} ")
    assert " ".join(text.split()) == (REWORDED.get(verb) or BEFORE["verbs"][verb]["description"])


def test_the_help_of_the_command_says_what_it_is_and_lists_verbs_and_exit_codes():
    shown = CliRunner().invoke(cli, ["--help"], prog_name="bimt").output
    assert "Networks whose modules can be seen and tested: the command line of a BIMT" in shown
    assert {verb for verb in BEFORE["verbs"] if re.search(rf"^  {verb}  +\w", shown, re.MULTILINE)} == set(
        BEFORE["verbs"]
    )
    assert set(BEFORE["exit_codes"]) == set(re.findall(r"^ +(\d+)  +\w", shown, re.MULTILINE))
    assert set(BEFORE["exit_codes"]) == set(re.findall(r"^  (\d+)  +\w", EXIT_CODES, re.MULTILINE))


@pytest.mark.parametrize("name", BEFORE["environment"])
def test_the_environment_says_where_the_service_is(name, monkeypatch, tmp_path):
    (tmp_path / "login.json").write_text('{"url": "http://127.0.0.1:9", "token": "bimt_file"}')
    environ = {"BIMT_LOGIN_FILE": str(tmp_path / "login.json")}
    if name != "BIMT_LOGIN_FILE":
        environ |= {"BIMT_URL": "http://127.0.0.1:8", "BIMT_TOKEN": "bimt_env"}
    login = importlib.import_module("bimt.login").find_login(environ=environ)
    assert (login.url, login.token) == (
        ("http://127.0.0.1:9", "bimt_file") if name == "BIMT_LOGIN_FILE" else ("http://127.0.0.1:8", "bimt_env")
    )
