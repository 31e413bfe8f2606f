"""`bimt` as people and scripts use it: in a pseudo-terminal, in a pipe, and with `--json`."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bimt import formatting
from bimt.command import EXIT_CODES, cli
from bimt.events import JobEvent
from bimt.formatting import Args
from bimt.progress import LineBar, duration, in_words
from bimt.runs import Module
from tests.client.conftest import TINY

REPOSITORY = Path(__file__).resolve().parents[2]
BIMT = [sys.executable, "-m", "bimt.command"]


class Terminal:
    """A command in a pseudo-terminal. Waiting has no limit of its own: pytest's timeout ends a test that hangs."""

    def __init__(self, words: list[str], environ: dict[str, str]) -> None:
        self.text = ""
        self.leader, follower = pty.openpty()
        self.popen = subprocess.Popen(
            words, stdin=follower, stdout=follower, stderr=follower, env=environ, start_new_session=True
        )
        os.close(follower)

    def until(self, pattern: str) -> str:
        """Read until the output matches; returns all of it."""
        while not re.search(pattern, self.text):
            assert self._read(1.0) or self.popen.poll() is None, self.text
        return self.text

    def type(self, text: str) -> None:
        """Send text as if it were typed."""
        os.write(self.leader, text.encode())

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        while self._read(0.2) or self.popen.poll() is None:
            pass
        os.close(self.leader)
        return self.popen.wait()

    def _read(self, seconds: float) -> bool:
        if not select.select([self.leader], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self.leader, 65536)
        except OSError:  # the other end is closed
            return False
        self.text += piece.decode("utf-8", "replace")
        return bool(piece)


@pytest.fixture
def environ(service, tmp_path) -> dict[str, str]:
    """Logged in to the service, in a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
    return kept | {
        "PYTHONPATH": str(REPOSITORY / "client"),
        "BIMT_LOGIN_FILE": str(tmp_path / "login.json"),
        "BIMT_URL": service.address,
        "BIMT_TOKEN": service.token,
        "TERM": "xterm",
        "COLUMNS": "120",
    }


@pytest.fixture
def bimt(environ, tmp_path):
    """Run the command to its end in a pipe."""

    def call(*words: str, given: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*BIMT, *words], env=environ | more, cwd=tmp_path, input=given, capture_output=True, text=True, timeout=120
        )

    return call


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> str:
    """The output of a command that succeeded, or the errors of one that ended with this code."""
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize(
    ("score", "said"), [(0.98449, "0.984"), (0.99962, "0.9996"), (0.999996, "0.9999"), (1.0, "1"), (-0.2, "-0.2")]
)
def test_a_score_below_one_is_not_rounded_to_one(score, said):
    output = {"output": "y", "measure": "r2", "learnt": True, "pruned": {"r2": score}, "trained": {"r2": 0.5}}
    assert formatting.predicted(output).split(maxsplit=1)[1] == f"R² {said} held out (0.5 before pruning)"


def test_a_script_goes_from_a_file_to_pictures(bimt, table, tmp_path):
    dataset = json.loads(said(bimt("upload", str(table), "--targets", "price", "--task", "regression", "--json")))
    assert dataset["rows"] == 40
    spec = {name: part for name, part in TINY.items() if name != "dataset"}
    words = ("submit", "--spec", "-", "--dataset", dataset["id"], "--seeds", "0-1", "--name", "houses", "--json")
    job = json.loads(said(bimt(*words, given=json.dumps(spec))))
    assert job["runs"] == 2
    ended = json.loads(said(bimt("watch", job["id"], "--json")))
    assert ended["state"] == "succeeded"
    runs = json.loads(said(bimt("runs", job["id"], "--json")))
    assert [run["seed"] for run in runs] == [0, 1]
    shown = said(bimt("show", runs[0]["id"]))
    assert "module A reads" in shown
    assert "connections kept" in shown
    told = said(bimt("modules", runs[0]["id"]))
    assert "module A reads" in told
    inside = json.loads(said(bimt("modules", runs[0]["id"], "--json")))["interior"]
    for partition in inside["partitions"]:
        assert partition["reading"] in told
    assert inside["partitions"] or inside["reading"] in told
    column = json.loads(said(bimt("modules", runs[0]["id"], "--json")))["modules"][0]["inputs"][0]
    assert runs[0]["id"] in said(bimt("runs", "--reads", column, "--min-modules", "1"))
    assert bimt("runs", job["id"], "--reads", column).returncode == 1
    assert re.search(r"module A +[ ░▒▓█]{4} \S+", shown), shown
    written = said(bimt("pull", runs[0]["id"], "here")).split()
    assert "here/figures/network.svg" in written
    assert (tmp_path / "here" / "weights.safetensors").stat().st_size > 1000
    assert (tmp_path / "here" / "card.md").read_text().startswith("# houses, seed 0\n")
    assert said(bimt("pull", runs[0]["id"], "all.zip")) == "all.zip\n"
    assert "card.md" in zipfile.ZipFile(tmp_path / "all.zip").namelist()
    assert job["id"] in said(bimt("jobs", "houses"))
    assert dataset["id"] in said(bimt("datasets", "houses"))
    assert said(bimt("open", runs[0]["id"], "--print")).strip().endswith(f"/runs/{runs[0]['id']}")
    assert "independence" in said(bimt("recipes"))


def test_a_table_in_a_pipe_is_neither_cut_nor_wrapped(bimt, trained):
    lines = said(bimt("runs", trained.id, COLUMNS="30")).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:3] == ["run", "seed", "λ"]
    assert all(run.id in line for run, line in zip(trained.runs(), lines[1:], strict=True))
    assert f" {trained.runs()[0].connections} " in lines[1]


def test_groups_inside_a_module_are_a_table_below_their_sentence(capsys):
    group = {
        "name": "A1",
        "neurons": ["hidden1:0", "hidden1:1"],
        "reads": [{"name": f"x{number}", "share": 0.2} for number in range(1, 6)],
        "strongest": [{"output": "y1", "effect": 0.5, "trained": 0.25}],
    }
    idle = group | {"name": "A2", "strongest": [], "lies_in": [{"name": "frequency 3", "share": 0.98}]}
    document = {
        "reading": "all",
        "partitions": [{"reading": "Up to hidden layer 1 …", "groups": [group, idle]}],
        "cuts": [{"reading": "It would fall into 2 parts …"}],
    }
    formatting.interior(Args(), document)
    said = capsys.readouterr().out.splitlines()
    assert next(line.strip() for line in said if line.strip()) == "Up to hidden layer 1 …"
    assert said[-1] == "It would fall into 2 parts …"
    rows = [line.split() for line in said if line.startswith("A")]
    assert rows[0] == ["A1", "2", "x1,", "x2,", "x3,", "x4", "and", "1", "more", "y1", "0.5", "0.25"]
    assert rows[1][-3:] == ["frequency", "3", "0.98"]
    formatting.interior(Args(), None)
    assert capsys.readouterr().out == ""


def test_runs_of_different_metrics_say_which_is_theirs(capsys):
    def of(name: str, value: float) -> SimpleNamespace:
        facts = {"id": "run_1", "seed": 0, "cost_strength": None, "state": "succeeded", "connections": 12}
        found = {"modules_found": 1, "modularity": 0.2, "selectivity": 0.0}
        return SimpleNamespace(**facts, **found, test_metric_name=name, test_metric=value)

    args = Args()
    formatting.runs(args, [of("test_accuracy", 0.98), of("test_prediction_loss", 0.02)])
    mixed = capsys.readouterr().out.splitlines()
    assert "test_accuracy 0.98" in mixed[1]
    assert "test_prediction_loss 0.02" in mixed[2]
    formatting.runs(args, [of("test_accuracy", 0.98)])
    alike = capsys.readouterr().out.splitlines()
    assert "test_accuracy" in alike[0]
    assert "test_accuracy" not in alike[1]


def modules_of(outputs: list[str], shares: list[list[float]]) -> list[Module]:
    """Modules A and B with these effects on the outputs."""
    effects = [{name: {"mean": share} for name, share in zip(outputs, row, strict=True)} for row in shares]
    return [
        Module(letter, [], ["a"], outputs, 3, f"module {letter}", 0.5, 0.5, found)
        for letter, found in zip("AB", effects, strict=False)
    ]


def shown_run(modules: list[Module], monkeypatch, capsys, *, columns: int, **more: object) -> str:
    """What `bimt show` prints of a run in a terminal of this width."""
    monkeypatch.setenv("COLUMNS", str(columns))
    facts = {"connections": 12, "connection_cost": 3.0, "modularity": 0.2, "selectivity": 0.0, "outputs": []} | more
    run = SimpleNamespace(id="run_1", seed=0, metrics={}, test_metric_name="test_accuracy", test_metric=0.98, **facts)
    formatting.run(Args(), run, modules, page="http://127.0.0.1:1/runs/run_1")
    return capsys.readouterr().out


def test_of_many_outputs_the_strongest_are_shown_and_the_others_counted(monkeypatch, capsys):
    names = [f"set {number}" for number in range(59)]
    modules = modules_of(names, [[number / 59 for number in range(59)], [0.5, *([0.0] * 58)]])
    text = shown_run(modules, monkeypatch, capsys, columns=80)
    assert "…" not in text
    [a, b] = [line for line in text.splitlines() if re.search(r"module [AB]  ", line)]
    assert re.findall(r"([\d.]+) (set \d+)", a) == [
        ("0.98", "set 58"),
        ("0.97", "set 57"),
        ("0.95", "set 56"),
        ("0.93", "set 55"),
    ]
    assert a.endswith("and 55 more, less")
    assert "0.50 set 0" in b


def test_few_outputs_are_a_table_where_it_fits(monkeypatch, capsys):
    modules = modules_of(["y1", "y2"], [[0.98, 0.0], [0.0, 0.5]])
    wide = shown_run(modules, monkeypatch, capsys, columns=80)
    assert re.search(r"module A +████ 0.98 + 0.00", wide)
    narrow = shown_run(modules, monkeypatch, capsys, columns=30)
    assert re.search(r"module A  ████ 0.98 y1 +0.00 y2\n", narrow)


def test_what_is_not_learnt_comes_first_and_what_modules_did_as_trained_stands_below(monkeypatch, capsys):
    [module] = modules_of(["y1"], [[0.98]])
    module = replace(module, effects={"y1": {"mean": 0.98, "trained": 0.43}})
    score = {"y1": 0.9, "y2": 0.02}
    outputs = [
        {"output": name, "measure": "r2", "learnt": r2 > 0.05, "pruned": {"r2": r2}, "trained": {"r2": r2}}
        for name, r2 in score.items()
    ]
    text = shown_run([module], monkeypatch, capsys, columns=80, outputs=outputs)
    assert text.index("y2 ") < text.index("y1 ")
    assert re.search(r"y2 +R² 0.02 held out \(0.02 before pruning\), NOT LEARNT\n", text)
    assert re.search(r"pruned, set to its mean +y1 *\n +module A +████ 0.98", text)
    assert re.search(r"the same as trained +y1 *\n +module A +▒▒▒▒ 0.43", text)


def test_rounding_errors_are_shown_as_zero(monkeypatch, capsys):
    text = shown_run([], monkeypatch, capsys, columns=80, selectivity=-2.2e-16)
    assert re.search(r"selectivity +0\n", text)


def test_a_list_that_was_cut_says_so_beside_it(bimt, client, trained):
    more = "1 shown; --limit for more\n"
    cut = bimt("runs", "--limit", "1")
    assert (len(said(cut).splitlines()), cut.stderr) == (2, more)
    programs = bimt("runs", "--limit", "1", "--json")
    assert (len(json.loads(said(programs))), programs.stderr) == (1, more)
    job = client.jobs.get(trained.id)
    whole = bimt("jobs", job.name, "--limit", "100")
    assert (whole.returncode, whole.stderr) == (0, "")
    for name in ("first of two", "second of two"):
        client.datasets.make(name, kind="two_moons", noise=0.1, seed=0)
    assert bimt("datasets", "of two", "--limit", "1").stderr == more
    assert bimt("datasets", "of two", "--limit", "2").stderr == ""


def test_login_asks_for_the_token_and_keeps_it_for_its_owner_alone(environ, service, tmp_path):
    for name in ("BIMT_URL", "BIMT_TOKEN"):
        del environ[name]
    terminal = Terminal([*BIMT, "login", service.address], environ)
    terminal.until("token: ")
    terminal.type(f"{service.token}\n")
    assert terminal.end() == 0, terminal.text
    assert "this token may admin" in terminal.text
    assert service.token not in terminal.text, "what is typed is not shown"
    assert (tmp_path / "login.json").stat().st_mode & 0o777 == 0o600
    after = subprocess.run([*BIMT, "jobs"], env=environ, capture_output=True, text=True)
    assert after.returncode == 0, after.stderr
    gone = subprocess.run([*BIMT, "login", "--forget"], env=environ, capture_output=True, text=True)
    assert (gone.returncode, gone.stdout) == (0, "Forgotten.\n")


def test_a_watched_job_has_a_bar_and_ends_with_its_runs(environ, client):
    job = client.jobs.submit(spec=TINY, name="bar")
    terminal = Terminal([*BIMT, "watch", job.id], environ)
    assert terminal.end() == 0, terminal.text
    assert "━" in terminal.text
    assert "bar has succeeded." in terminal.text
    assert job.runs()[0].id in terminal.text


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(environ, long_job):
    job = long_job()
    terminal = Terminal([*BIMT, "watch", job.id], environ)
    terminal.until("long")
    terminal.popen.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert f"bimt watch {job.id}" in terminal.text
    assert "Traceback" not in terminal.text
    assert job.refresh().state in ("queued", "running")


def test_a_cancelled_job_is_queued_again(bimt, long_job):
    job = long_job()
    said(bimt("cancel", job.id))
    for _ in job.events(timeout=60):
        pass  # until it has ended
    assert job.refresh().state == "cancelled"
    assert "again" in said(bimt("retry", job.id))
    assert job.refresh().state in ("queued", "running")


def test_exit_codes_are_those_that_the_help_lists(bimt, client, long_job, tmp_path):
    listed = {int(code) for code in re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)}
    job = long_job()
    job.cancel()
    found = {
        0: bimt("jobs"),
        1: bimt("show", "run_" + "0" * 26),
        2: bimt("submit", "--seeds", "none"),
        4: bimt("jobs", BIMT_TOKEN="bimt_unknown"),
        5: bimt("watch", job.id),
        3: subprocess.run(
            [*BIMT, "login", "127.0.0.1:9", "--with-token", "x"],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY / "client"), "BIMT_LOGIN_FILE": str(tmp_path / "x")},
            capture_output=True,
            text=True,
        ),
    }
    assert {code: done.returncode for code, done in found.items()} == {code: code for code in found}
    assert listed == {*found, 130}
    for code, done in found.items():
        assert "Traceback" not in done.stderr
        assert code in (0, 2) or done.stderr.startswith("bimt: ")


def test_wrong_fields_are_named_with_their_pointers_for_people_and_for_programs(bimt):
    words = ("submit", "--recipe", "independence", "--priority", "12", "--tags", "no good")
    text = said(bimt(*words), 1)
    assert "/priority" in text
    assert "/tags/0" in text
    problem = json.loads(said(bimt(*words, "--json"), 1))
    assert [field["pointer"] for field in problem["fields"]] == ["/priority", "/tags/0"]


def test_a_file_that_is_not_there_is_a_sentence(bimt):
    assert "nowhere.csv" in said(bimt("upload", "nowhere.csv"), 1)
    assert "- is no JSON: " in said(bimt("submit", "--spec", "-", given="{"), 1)
    assert "- is no JSON object." in said(bimt("submit", "--spec", "-", given="[]"), 1)


@pytest.mark.parametrize("verb", ["recipes", "recipes --json", "completion bash", "jobs nothing-of-this-name"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_has_seen_enough_is_no_error(environ, verb, unbuffered):
    # The reader is gone before the first word is written, so that no race decides where the pipe breaks.
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*BIMT, *verb.split()],
            env=environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert (done.stderr, done.returncode) == ("", 0)


def test_old_spellings_work_with_a_note_on_standard_error(bimt, table):
    done = bimt("upload", str(table), "--target", "price", "--input", "rooms", "--json")
    roles = json.loads(said(done))["roles"]
    assert (roles["targets"], roles["inputs"]) == (["price"], ["rooms"])
    assert "DeprecationWarning" in done.stderr
    assert "Use --targets." in done.stderr
    assert "Use --inputs." in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("submit --seeds none", "`none` is no list of whole numbers"),
        ("submit --cost-strengths x", "`x` is no list of numbers such as 0.001,0.01, nor auto"),
        ("jobs --state lost", "'lost' is not one of 'queued'"),
        ("show", "Missing argument 'RUN'"),
        ("nonsense", "No such command 'nonsense'"),
        ("jobs --nonsense", "No such option '--nonsense'"),
        ("", "Usage: bimt"),
    ],
)
def test_a_wrong_command_line_is_a_sentence_and_exit_code_2(words, sentence):
    done = subprocess.run(
        [*BIMT, *words.split()],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "client")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert sentence in done.stderr


# --- completion and words ------------------------------------------------------------------------------------


@pytest.fixture
def shell_script(tmp_path):
    """The completion script of a shell, with `bimt` on the PATH, and a file that can be uploaded. Skips without it."""

    def write(shell: str) -> tuple[Path, dict[str, str]]:
        environ = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "TERM": "dumb"}
        environ |= {"PYTHONPATH": str(REPOSITORY / "client"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        (tmp_path / "bimt").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bimt.command "$@"\n')
        (tmp_path / "bimt").chmod(0o755)
        done = subprocess.run(["bimt", "completion", shell], env=environ, capture_output=True, text=True, check=True)
        assert "_BIMT_COMPLETE" in done.stdout
        if shutil.which(shell) is None:
            pytest.skip(f"no {shell} on this machine")
        (tmp_path / "houses.csv").write_text("")
        (tmp_path / "script").write_text(done.stdout)
        return tmp_path / "script", environ

    return write


def test_bash_completes_verbs_options_choices_and_files(shell_script):
    path, environ = shell_script("bash")

    def completed(*words: str) -> list[str]:
        """What bash offers after these words; `file` where it completes files itself."""
        listed = " ".join(f"'{word}'" for word in ("bimt", *words))
        ask = (
            f'COMP_WORDS=({listed}); COMP_CWORD={len(words)}; _bimt_completion bimt; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        program = f'compopt() {{ echo "$@"; }}; source {path}\n{ask}'
        done = subprocess.run(["bash", "-c", program], env=environ, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("s") == ["submit", "stability", "show", "share"]
    assert completed("") == list(cli.commands)
    assert "--cost-strengths" in completed("submit", "--")
    assert "--target" not in completed("upload", "--"), "old spellings are not offered"
    assert completed("completion", "f") == ["fish"]
    assert completed("jobs", "--state", "") == ["queued", "running", "succeeded", "failed", "cancelled"]
    assert completed("upload", "hou") == ["-o", "default"]


def test_fish_completes_verbs_options_and_files(shell_script):
    path, environ = shell_script("fish")

    def offered(line: str) -> set[str]:
        ask = f"source {path}; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "-c", ask], cwd=path.parent, env=environ, capture_output=True, text=True, check=True
        )
        return {word.partition("\t")[0] for word in done.stdout.splitlines()}

    assert offered("bimt s") == {"submit", "show", "stability", "share"}
    assert offered("bimt submit --cost") == {"--cost-strengths"}
    assert offered("bimt completion ") == {"bash", "zsh", "fish"}
    assert offered("bimt jobs --state ") == {"queued", "running", "succeeded", "failed", "cancelled"}
    assert offered("bimt upload hou") == {"houses.csv"}
    assert offered("bimt watch hou") == set()


def test_zsh_completes_verbs_options_and_files(shell_script):
    path, environ = shell_script("zsh")
    zsh = Terminal(["zsh", "-f", "-i"], environ)
    zsh.type(f"cd {path.parent}; source {path} && print read$((1))\n")
    zsh.until("read1")
    for typed, whole in (
        ("bimt subm", "bimt submit "),
        ("bimt submit --cost", "bimt submit --cost-strengths "),
        ("bimt jobs --state q", "bimt jobs --state queued "),
        ("bimt upload hou", "bimt upload houses.csv "),
    ):
        zsh.type(f"{typed}\t")
        zsh.until(re.escape(whole))
        zsh.type("\x15")  # and the line is empty again
    zsh.type("exit\n")
    assert zsh.end() == 0


def test_an_event_is_described_in_words():
    assert in_words(JobEvent(1, "queued", 0.0, queue_position=0)) == "next in the queue"
    assert in_words(JobEvent(1, "queued", 0.0, queue_position=2)) == "2 before it in the queue"
    running = JobEvent(2, "running", 0.4, eta_seconds=200.0, losses={"test_prediction_loss": 0.0312}, note="seed 2")
    assert in_words(running) == "seed 2 · loss 0.0312 · 3 min to go"
    assert [duration(s) for s in (0.2, 59, 100, 4000, 86400 * 3)] == ["under 1 s", "59 s", "2 min", "67 min", "3 d"]


def test_a_claim_is_told_in_a_cell():
    modules = [
        {"name": "A", "inputs": ["x1", "x3"], "outputs": ["y1"]},
        {"name": "B", "inputs": ["x2"], "outputs": ["y2"]},
    ]
    assert formatting.brief(modules) == "x1, x3 → y1 | x2 → y2"
    assert [formatting.brief(value) for value in (0.000422703, 19, None, [], [True, False])] == [
        "0.000423", "19", "", "[]", "[True, False]",
    ]  # fmt: skip
    assert formatting.brief("5eea5c9c58056cadb4f992a5" + 40 * "0") == "5eea5c9c58056cadb4f992a5…"


def test_in_a_notebook_the_bar_is_one_line_written_over_itself(capsys):
    bar = LineBar("job", sys.stderr)
    bar(JobEvent(1, "running", 0.5, note="a long note about something"))
    bar(JobEvent(2, "succeeded", 1.0))
    first, second = capsys.readouterr().err.split("\r")[1:]
    assert first.startswith("job ████████████░░░░░░░░░░░░  50 %")
    assert len(second) == len(first)
