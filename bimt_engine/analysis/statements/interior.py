"""The sentences about groups of neurons inside modules, from the stored `interior` of a run."""

from __future__ import annotations

from dataclasses import dataclass

from bimt_engine.analysis.statements.wording import Document, counted, listed, number, quoted, skipped_statement

INTERACTS = 1e-3  # of an output's variance: groups of the pruned network that interact more are one
LEAST_EFFECT = 0.01  # of some output's variance: a group that changes every output by less has no effect of its own
TRAINED_LIMIT = 0.05  # the same in the network as trained
TRAINED_LEAK = 0.2  # of what moves a group of the network as trained, so much may come from what others read
SIGNIFICANT = 0.05  # p of a partition among random ones
FEWEST_PARTITIONS = 19  # with fewer other partitions, p cannot fall to 0.05
MAX_READ = 4  # terminals that are named of one group; more are counted
MAX_GROUPS_NAMED = 6
MAX_FORMULA = 28  # characters of a formula that stands in a legend
PURE = 0.9  # of a group's variance in one representation: then it is named after it
EMBEDDING = "embedding dimension "  # how the name of a terminal begins that is no column of the data

SUPPORTED_GROUPS_MEAN = (
    f"A supported group changes some output by {LEAST_EFFECT:g} of its variance at least, and may change any. Where "
    f"groups are added up, two of them interact by {INTERACTS:g} of an output’s variance at most, in the network as "
    f"trained by {TRAINED_LIMIT:g}."
)

RELATION_OF_GROUPS = {
    "sum": "what they compute is added up",
    "composition": "later layers combine what they compute",
}
"""Kind of a partition -> what its groups are to one another."""


@dataclass(frozen=True)
class PartitionStatement:
    """What is said of one partition.

    verdict   supported, not supported, not testable.
    what      sentence: how many groups up to which layer, and what they are to one another.
    evidence  sentences: the numbers behind it.
    reason    clause: why it is not supported; None where it is.
    groups    one sentence for each group.
    """

    verdict: str
    what: str
    evidence: tuple[str, ...]
    reason: str | None
    groups: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it but the groups: the stored field `reading` of a partition."""
        end = [f"{self.verdict.capitalize()}: {self.reason}."] if self.reason else ["Supported."]
        return " ".join([self.what, *self.evidence, *end])


def partition_verdict(partition: Document) -> tuple[str, str | None]:
    """(supported | not supported | not testable, why it is not)."""
    if rejected := partition.get("rejected_modules"):
        lie = f"module {rejected[0]}" if len(rejected) == 1 else f"modules {listed(rejected)}"
        return (
            "not supported",
            f"the groups lie in {lie}, not supported {'itself' if len(rejected) == 1 else 'themselves'}",
        )
    worst, trained = partition["largest_interaction"], partition["trained_largest_interaction"]
    if partition["kind"] == "sum" and worst > INTERACTS:
        return "not supported", f"two groups interact by {number(worst)} of an output’s variance"
    if partition["kind"] == "sum" and trained > TRAINED_LIMIT:
        did = f"the same groups interact by {number(trained)}"
        return "not supported", f"in the network as trained {did}: pruning made this separation"
    if (leak := partition["trained_leak"]) > TRAINED_LEAK:
        did = f"{number(leak)} of what moves the same groups comes from what others read"
        return "not supported", f"in the network as trained {did}: pruning made this separation"
    idle = [group["name"] for group in partition["groups"] if not group["works"]]
    if idle:
        return (
            "not supported",
            f"switching off {listed(idle)} changes no output by as much as {100 * LEAST_EFFECT:g} % of its variance",
        )
    if partition["p"] <= SIGNIFICANT:
        return "supported", None
    if partition["random_partitions"] < FEWEST_PARTITIONS:
        compared = partition["random_partitions"]
        others = {0: "is no other partition", 1: "is only one other partition"}.get(
            compared, f"are only {compared} others"
        )
        return "not testable", f"so few neurons have connections that there {others} of these sizes to compare with"
    return "not supported", f"random partitions of the same sizes are separated as well (p = {number(partition['p'])})"


def partition_statement(partition: Document) -> PartitionStatement:
    """The statement of a stored partition."""
    groups = partition["groups"]
    verdict, reason = partition_verdict(partition)
    what = f"Up to {spaced(partition['layer'])} the neurons form {counted(len(groups), 'separate group')}; "
    evidence = [
        f"Between two groups the interaction is {_at_most(partition['largest_interaction'])} of an output’s variance, "
        f"in the network as trained {_at_most(partition['trained_largest_interaction'])}.",
        f"Of what moves them, {_at_most(partition['leak'])} crosses between groups, as trained "
        f"{_at_most(partition['trained_leak'])}.",
    ]
    if partition["random_partitions"]:
        compared = counted(partition["random_partitions"], "random partition")
        evidence.append(f"Against {compared} of the same sizes p = {number(partition['p'])}.")
    return PartitionStatement(
        verdict,
        f"{what}{RELATION_OF_GROUPS[partition['kind']]}.",
        tuple(evidence),
        reason,
        tuple(map(group_statement, groups)),
    )


def group_statement(group: Document) -> str:
    """One group: its size, what it reads and what it moves."""
    trees = f" in {counted(group['trees'], 'tree')}" if group["trees"] > 1 else ""
    said = f"{group['name']}: {counted(len(group['neurons']), 'neuron')}{trees}, reads {terminals(group)}"
    if lies_in := group.get("lies_in"):
        said += f"; {round(100 * lies_in[0]['share'])} % of its variance lies in {lies_in[0]['name']}"
    moved = group["strongest"]
    if moved:
        outputs = [quoted(one["output"]) for one in moved]
        said += f"; switching it off changes {listed(outputs)} by {number(moved[0]['effect'])} of the variance"
        said += f" ({number(moved[0]['trained'])} as trained)"
    for one in computed(group):
        formula = one["formula"]
        r2 = (formula.get("test") or {}).get("r2")
        agreeing = "" if r2 is None else f" (R² = {r2:.4f} against the group on test rows)"
        said += f"; adds {formula['text']} to {quoted(one['output'])}, up to a constant{agreeing}"
    return f"{said}."


def computed(group: Document) -> list[Document]:
    """The accepted formulas of what a group adds to outputs: [{output, formula}], the one that it moves most first."""
    return [one for one in group.get("computes") or () if one["formula"].get("accepted")]


def group_label(group: Document) -> str:
    """A few words for legends: the representation that it lies in, else what it computes, else what it reads."""
    lies_in = group.get("lies_in") or []
    if lies_in and lies_in[0]["share"] >= PURE:
        return str(lies_in[0]["name"])
    formulas = computed(group)
    if len(formulas) == 1 and len(text := str(formulas[0]["formula"]["text"])) <= MAX_FORMULA:
        return f"computes {text.replace('**', '^').replace('*', '·')}"
    return f"reads {terminals(group)}"


def terminals(group: Document) -> str:
    """What a group reads, by name, what it reads most first."""
    names = [str(read["name"]) for read in group["reads"]]
    if len(names) > MAX_READ:
        return f"{len(names)} of {group['terminals']} terminals"
    if len(names) > 1 and all(name.startswith(EMBEDDING) for name in names):
        return f"embedding dimensions {listed([name.removeprefix(EMBEDDING) for name in names])}"
    return listed(names)


def cut_statement(cut: Document) -> str:
    """The cheapest cut: which connections, what it would cost, and which parts it would leave."""
    shown = [f"{c['source']} → {c['target']} (weight {number(c['weight'])})" for c in cut["connections"]]
    rise = cut["loss_change"]
    cost = f"the held-out loss {_changed(rise)}"
    parts = "; ".join(f"{counted(part['neurons'], 'neuron')} reading {listed(part['reads'])}" for part in cut["parts"])
    what = "Its hidden neurons" if cut["level"] == "inside" else "It"
    return f"{what} would fall into {counted(len(cut['parts']), 'part')} ({parts}) without {listed(shown)}: {cost}."


def interior_statement(document: Document) -> str:
    """The groups inside the modules, in one paragraph: the stored field `reading`."""
    if "skipped" in document:
        return skipped_statement("Groups inside the modules", document["skipped"])
    primary = document.get("primary")
    if not any(layer["trees"] for layer in document["layers"]):
        return "There is nothing inside: no hidden neuron is connected."
    if primary is None:
        said = "There are no separate groups inside: the hidden neurons are one group at every depth."
        return " ".join([said, *(cut_statement(cut) for cut in document["cuts"][:1])])
    partition = document["partitions"][primary]
    stated = partition_statement(partition)
    return " ".join([stated.text, *stated.groups[:MAX_GROUPS_NAMED]])


def run_verdict(of_modules: str | None, document: Document, *, modules: int) -> str | None:
    """What a run has found, in one paragraph: its modules, then the groups inside them.

    Where groups inside a single module are supported, they are what was found, and stand alone.

    of_modules   `network.verdict`
    """
    if "skipped" in document or document.get("primary") is None:
        return of_modules
    partition = document["partitions"][document["primary"]]
    verdict, reason = partition_verdict(partition)
    names, relation = listed([group["name"] for group in partition["groups"]]), RELATION_OF_GROUPS[partition["kind"]]
    groups = counted(len(partition["groups"]), "separate group")
    if modules == 1 and verdict == "supported":
        return f"{groups} of neurons are supported ({names}), inside one connected piece: {relation}."
    found = f"Inside there are {groups} of neurons ({names}): {relation}; {verdict}"
    return " ".join(filter(None, (of_modules, f"{found}{f', because {reason}' if reason else ''}.")))


def parts_modules(partition: Document) -> bool:
    """Whether some module has several groups; where each has one, the groups are the modules once more."""
    return len({group["module"] for group in partition["groups"]}) < len(partition["groups"])


def groups_shown(document: Document) -> list[Document]:
    """The groups of the primary partition that pictures show: none that the tests rejected, none that is a module."""
    if "skipped" in document or document.get("primary") is None:
        return []
    partition = document["partitions"][document["primary"]]
    if partition["verdict"] == "not supported":
        return []
    return [group for group in partition["groups"] if group["name"] != group["module"]]


def interior_modules(document: Document) -> int:
    """How many groups of the primary partition are supported: all or none."""
    if "skipped" in document or document.get("primary") is None:
        return 0
    partition = document["partitions"][document["primary"]]
    return len(partition["groups"]) if partition_verdict(partition)[0] == "supported" else 0


def spaced(layer: str) -> str:
    """hidden2 as hidden layer 2; other names as they are."""
    rest = layer.removeprefix("hidden")
    return f"hidden layer {rest}" if rest.isdecimal() and rest != layer else layer


def _at_most(value: float) -> str:
    return "0" if value < 1e-12 else number(value)


def _changed(share: float) -> str:
    """A change as a share of what was there: a percentage, or how many times as much where that says more."""
    if share >= 1:
        return f"becomes {number(1 + share)} times as large"
    return f"{'rises' if share >= 0 else 'falls'} by {number(100 * abs(share))}%"
