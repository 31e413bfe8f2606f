"""The runs of a job together: do the seeds agree on the modules, and what does a shorter wiring cost?

Neurons have no names that two trainings share, so modules are aligned by what they do to the outputs, and connections
by what they read and where they lead. A sweep of cost strengths says what is bought and what is paid, where the knee
is, and how large λ may be. Works on the documents of runs; no torch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bimt_engine.analysis.communities import Labels, adjusted_rand, variation_of_information
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.statements.interior import interior_modules
from bimt_engine.analysis.statements.job import empty_runs, stability_statement, strength_sentence

Document = Mapping[str, Any]
Role = tuple[str, tuple[str, ...], tuple[str, ...]]
OFTEN = 0.5  # of the runs: what occurs less often is not called recurring
LEAST_READ = 0.05  # of all that moves a group: inputs below do not make its role
MAX_LISTED = 100  # recurring connections in a report
TOLERANCE = 5e-4  # of the scale; what pruning is allowed where a spec says nothing else


def end_labels(document: Document) -> tuple[tuple[str, ...], Labels]:
    """Every input and output by name, and the number of the module it belongs to; what no module reads stands alone."""
    graph = document["graph"]["graph"]
    names = [f"in {name}" for name in graph["inputs"]] + [f"out {name}" for name in graph["outputs"]]
    groups = dict.fromkeys(names)
    for number, module in enumerate(document["modules"]):
        for name in module["inputs"]:
            groups[f"in {name}"] = number
        for name in module["outputs"]:
            groups[f"out {name}"] = number
    alone = itertools.count(len(document["modules"]))
    return tuple(names), np.array([next(alone) if groups[name] is None else groups[name] for name in names])


def align_modules(document: Document, reference: Document) -> list[int | None]:
    """For each module of the reference, the one of this run that does most nearly the same to the outputs.

    Alike is the cosine between rows of the effect matrix, negative effects counted as none. A module that joins two of
    the reference is the nearest to both; a match without any overlap is no match.
    """
    if not (document["modules"] and reference["modules"]):
        return [None] * len(reference["modules"])
    ours, theirs = (np.maximum(np.array(d["effects"]["matrices"]["mean"], float), 0.0) for d in (document, reference))
    scaled = [m / np.maximum(np.linalg.norm(m, axis=1, keepdims=True), 1e-300) for m in (theirs, ours)]
    alike = scaled[0] @ scaled[1].T
    return [int(row.argmax()) if row.max() > 0 else None for row in alike]


def dependencies(graph: Graph) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """For each neuron id: the inputs that reach it and the outputs that it reaches, by name."""
    first, last = graph.meta["layers"][0]["name"], _output_layer(graph)
    reads = {n.id: {_feature(n.name)} if n.layer == first else set() for n in graph.neurons}
    reaches = {n.id: {n.name} if n.layer == last else set() for n in graph.neurons}
    changed = True
    while changed:
        changed = False
        for c in graph.connections:
            if not reads[c.source] <= reads[c.target]:
                reads[c.target] |= reads[c.source]
                changed = True
            if not reaches[c.target] <= reaches[c.source]:
                reaches[c.source] |= reaches[c.target]
                changed = True
    return {n.id: (frozenset(reads[n.id]), frozenset(reaches[n.id])) for n in graph.neurons}


def stability(documents: Sequence[Document]) -> dict[str, Any]:
    """How far runs of one spec with different seeds agree, for each cost strength separately; a JSON-able document.

    A stronger cost leaves other modules, so runs are compared with those of their own `cost_strength` alone.

    runs            all of them. reading: what is found, in sentences.
    cost_strengths  one entry for each, from the smallest on; where there is one only, its fields stand beside these.

    Fields of an entry:
    cost_strength   None where the spec's own was used.
    runs            with it. reference: the one that agrees best with the others, by its number in `documents`.
    empty           runs that kept no connection: they found nothing, so they agree with no run, not even one another.
    agreement       runs whose modules divide inputs and outputs in the most common way.
    modules         of the reference, each with how often it came back and what it read.
    dependencies    share of the runs in which an input reaches an output.
    connections     by what they read and where they lead, with the share of runs that have one; the common ones.
    interior        the same of the groups inside the modules: `interior_stability`; absent where no run was examined.

    Agreement and both indices are of the runs that kept something; the indices are None where fewer than two did.
    """
    if not documents:
        return {"runs": 0, "cost_strengths": [], "reading": stability_statement({"runs": 0})}
    names, _ = end_labels(documents[0])
    if any(end_labels(document)[0] != names for document in documents):
        raise ValueError("These runs have different inputs or outputs: only runs of one data set can be compared.")
    groups: dict[float | None, list[int]] = {}
    for number, document in enumerate(documents):
        groups.setdefault(document.get("cost_strength"), []).append(number)
    found = [
        {"cost_strength": strength} | _of_one_strength(names, documents, groups[strength])
        for strength in sorted(groups, key=lambda strength: -1.0 if strength is None else strength)
    ]
    entry = found[0] if len(found) == 1 else {}
    return entry | {
        "runs": len(documents),
        "cost_strengths": found,
        "reading": " ".join(strength_sentence(one["cost_strength"], one["reading"], of=len(found)) for one in found),
    }


def _of_one_strength(names: tuple[str, ...], documents: Sequence[Document], numbers: Sequence[int]) -> dict[str, Any]:
    """The entry of the runs with these numbers."""
    some = [documents[number] for number in numbers]
    full = [place for place, document in enumerate(some) if document["modules"]]
    found: dict[str, Any] = {"runs": len(some), "empty": len(some) - len(full)}
    found |= _agreement(names, some, full)
    reference = found["reference"]
    found |= {
        "reference": None if reference is None else numbers[reference],
        "modules": [] if reference is None else _module_rows(some, some[reference]),
        "dependencies": _dependency_shares(some),
        "connections": _recurring(some),
    }
    if inside := interior_stability(some):
        found["interior"] = inside
    return found | {"reading": stability_statement(found)}


def interior_stability(documents: Sequence[Document]) -> dict[str, Any] | None:
    """How far runs agree on the supported groups inside their modules; None where no run was examined for them.

    examined      runs that were. groups: the most common number of supported groups, and counted_in, how many have it.
    roles         of the most common set of roles (reads, moves, representation): `met_in` counts the runs that have
                  such a group; same_roles_in: those whose groups have exactly these roles.

    A group is met again by its role, because neurons have no names that two trainings share: by its irreducible
    representation, where the data are the products of a group, else by the inputs that it reads and the outputs that it
    moves.
    """
    examined = [inside for d in documents if (inside := d.get("interior")) and "skipped" not in inside]
    if not examined:
        return None
    of = [_roles(document) for document in examined]
    groups, counted = max(Counter(map(len, of)).items(), key=lambda pair: (pair[1], pair[0]))
    common, same = Counter(tuple(sorted(roles)) for roles in of if len(roles) == groups).most_common(1)[0]
    return {
        "examined": len(examined),
        "groups": groups,
        "counted_in": counted,
        "same_roles_in": same,
        "roles": [
            {"representation": name, "reads": list(reads), "moves": list(moves), "met_in": sum(role in r for r in of)}
            for role in dict.fromkeys(common)
            for name, reads, moves in (role,)
        ],
    }


def _roles(interior: Document) -> list[Role]:
    """(representation, inputs that it reads, outputs that it moves) of each supported group; one of both is empty."""
    if not interior_modules(interior):
        return []
    found: list[Role] = []
    for group in interior["partitions"][interior["primary"]]["groups"]:
        if lies_in := group.get("lies_in"):
            found.append((str(lies_in[0]["name"]), (), ()))
        else:
            reads = (str(one["name"]) for one in group["reads"] if one["share"] >= LEAST_READ)
            moves = (str(one["output"]) for one in group["strongest"])
            found.append(("", tuple(sorted(reads)), tuple(sorted(moves))))
    return found


def _agreement(names: tuple[str, ...], documents: Sequence[Document], full: Sequence[int]) -> dict[str, Any]:
    """The most common partition of the ends, how many of the runs that kept something have it, and the indices."""
    labels = [end_labels(documents[number])[1] for number in full]
    partitions = [_partition(names, of) for of in labels]
    found: dict[str, Any] = {
        "agreement": 0,
        "partition": [],
        "adjusted_rand": None,
        "variation_of_information": None,
        "reference": None,
    }
    if not full:
        return found
    common, agreeing = Counter(partitions).most_common(1)[0]
    rand = np.array([[adjusted_rand(a, b) for b in labels] for a in labels])
    information = np.array([[variation_of_information(a, b) for b in labels] for a in labels])
    among = [i for i in range(len(full)) if partitions[i] == common]
    found |= {
        "agreement": agreeing,
        "partition": [sorted(group) for group in sorted(common, key=lambda g: sorted(g))],
        "reference": full[max(among, key=lambda i: (rand[i].mean(), -i))],
    }
    if len(full) > 1:
        pairs = np.triu_indices(len(full), 1)
        found["adjusted_rand"] = float(rand[pairs].mean())
        found["variation_of_information"] = float(information[pairs].mean())
    return found


def _module_rows(documents: Sequence[Document], reference: Document) -> list[dict[str, Any]]:
    """The modules of the reference, each with how often it came back.

    met_in         runs with a module that moves some of the same outputs: it may read other inputs, or more outputs.
    same_ends_in   those of them whose module has exactly these inputs and outputs.
    supported_in   those of these in which it is supported.
    """
    matches = [align_modules(document, reference) for document in documents]
    rows = []
    for number, module in enumerate(reference["modules"]):
        met = [
            (document, document["modules"][match[number]])
            for document, match in zip(documents, matches, strict=True)
            if match[number] is not None
        ]
        same = [m for _, m in met if all(set(m[ends]) == set(module[ends]) for ends in ("inputs", "outputs"))]
        rows.append(
            {
                "name": module["name"],
                "inputs": module["inputs"],
                "outputs": module["outputs"],
                "met_in": len(met),
                "same_ends_in": len(same),
                "supported_in": sum(bool(m.get("supported")) for m in same),
                "inputs_read": _shares(met, "inputs", len(documents)),
                "outputs_reached": _shares(met, "outputs", len(documents)),
                "connections": [int(m["connections"]) for _, m in met],
            }
        )
    return rows


def _shares(met: Sequence[tuple[Document, Document]], field: str, of: int) -> dict[str, float]:
    counts = Counter(name for _, module in met for name in module[field])
    return {name: count / of for name, count in sorted(counts.items())}


def _dependency_shares(documents: Sequence[Document]) -> dict[str, Any]:
    meta = documents[0]["graph"]["graph"]
    inputs, outputs = list(meta["inputs"]), list(meta["outputs"])
    shares = np.zeros((len(inputs), len(outputs)))
    for document in documents:
        graph = Graph.from_json(document["graph"])
        of = dependencies(graph)
        last = _output_layer(graph)
        for neuron in graph.neurons:
            if neuron.layer == last and neuron.name in outputs:
                for name in of[neuron.id][0] & set(inputs):
                    shares[inputs.index(name), outputs.index(neuron.name)] += 1 / len(documents)
    return {"inputs": inputs, "outputs": outputs, "share": shares.tolist()}


def _recurring(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """Connections by matrix, what the source reads and where the target leads, and the share of runs with one."""
    seen: Counter[tuple[str, tuple[str, ...], tuple[str, ...]]] = Counter()
    for document in documents:
        graph = Graph.from_json(document["graph"])
        of = dependencies(graph)
        connections = {
            (c.parameter, tuple(sorted(of[c.source][0])), tuple(sorted(of[c.target][1]))) for c in graph.connections
        }
        seen.update(connections)
    common = [(key, n) for key, n in seen.items() if n >= OFTEN * len(documents)]
    common.sort(key=lambda row: (-row[1], row[0]))
    return [
        {"parameter": p, "reads": list(reads), "leads_to": list(leads), "share": n / len(documents)}
        for (p, reads, leads), n in common[:MAX_LISTED]
    ]


def _partition(names: tuple[str, ...], labels: Labels) -> frozenset[frozenset[str]]:
    return frozenset(
        frozenset(name for name, own in zip(names, labels.tolist(), strict=True) if own == label)
        for label in set(labels.tolist())
    )


def _output_layer(graph: Graph) -> str:
    """The last neuron layer; the layers of a graph are listed from inputs to outputs."""
    return str(graph.meta["layers"][-1]["name"])


def _feature(name: str) -> str:
    """The input behind a neuron: one coordinate of a token's vector, a[3], belongs to the token a."""
    head, bracket, rest = name.rpartition("[")
    return head if bracket and rest.endswith("]") and rest[:-1].isdecimal() else name


def pareto(
    points: Sequence[Mapping[str, Any]], *, tolerance: float | None = None, rows: str = "held-out"
) -> dict[str, Any]:
    """Which runs of a sweep no other run betters, the knee among them, and what each cost strength costs.

    points      {"run", "cost_strength", "seed", "loss", "test_loss", "wiring", "connections", "modularity", "scale",
                "tolerance"}; modularity may be null, test_loss, scale (the loss of a constant answer) and tolerance (of
                the run's pruning) may be left out. Everything is chosen by `loss`; see `selection_loss`.
    tolerance   share of `scale` by which the median loss of a cost strength may lie above the best one's and be
                harmless. None: the share by which pruning was allowed to raise the loss.
    rows        which rows `loss` is of, for the statement: validation or held-out ones.

    Where splits are drawn, each seed's loss is of rows of its own: runs of one seed are compared on the same rows, runs
    of different seeds are not. A run that kept no connection is a point like any other, with a constant
    answer, but no knee; `reading` says how many there are.
    """
    usable = [p for p in points if _finite(p.get("loss")) and _finite(p.get("wiring"))]
    if not usable:
        return {"points": [], "knee": None, "suggested_cost_strength": None, "cost_strengths": [], "reading": None}
    if tolerance is None:
        tolerance = _median([p.get("tolerance") for p in usable], default=TOLERANCE)
    values = np.array([[float(p["loss"]), float(p["wiring"])] for p in usable])
    best = non_dominated(values)
    marked = [{**p, "efficient": bool(b)} for p, b in zip(usable, best, strict=True)]
    empty = np.array([_empty(p) for p in usable])
    front = np.flatnonzero(best & ~empty)  # on a log scale nothing is infinitely far from everything
    bend = knee(values[front])
    strengths = by_cost_strength(usable, tolerance=tolerance)
    return {
        "points": marked,
        "knee": None if bend is None else marked[int(front[bend])],
        "suggested_cost_strength": max((s["cost_strength"] for s in strengths if s["harmless"]), default=None),
        "cost_strengths": strengths,
        "tolerance": tolerance,
        "rows": rows,
        "reading": empty_runs(int(empty.sum()), len(usable)),
    }


def non_dominated(values: Float[np.ndarray, "points measures"]) -> Bool[np.ndarray, " points"]:
    """For each row, whether no other row is at least as low in every column and lower in one."""
    return np.array(
        [not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any() for row in values], dtype=bool
    )


def knee(front: Float[np.ndarray, "points 2"]) -> int | None:
    """The point of a front (loss, wiring) that lies farthest below the chord between its ends, both on log scales.

    None for fewer than three points or a front without a bend.
    """
    if len(front) < 3:
        return None
    logs = np.log(np.maximum(front, 1e-300))
    low, span = logs.min(axis=0), np.ptp(logs, axis=0)
    if (span == 0).any():
        return None
    scaled = (logs - low) / span  # the chord runs from (0, 1) to (1, 0)
    below = 1.0 - scaled.sum(axis=1)
    bend = int(np.argmax(below))
    return bend if below[bend] > 1e-9 else None


def by_cost_strength(points: Sequence[Mapping[str, Any]], *, tolerance: float) -> list[dict[str, Any]]:
    """What each cost strength comes to over its seeds, from the smallest on.

    loss, test_loss, wiring, connections   medians; lowest_loss and highest_loss: over the seeds.
    times_best   the median loss over the best one; None where that is 0.
    empty        runs that kept no connection.
    harmless     whether the median loss is within the tolerance of the best one.
    """
    strengths = sorted({float(p["cost_strength"]) for p in points if p.get("cost_strength") is not None})
    groups = {s: [p for p in points if p.get("cost_strength") == s] for s in strengths}
    losses = {s: np.array([float(p["loss"]) for p in group]) for s, group in groups.items()}
    best = min((float(np.median(of)) for of in losses.values()), default=0.0)
    limit = best + tolerance * _median([p.get("scale") for p in points], default=abs(best))
    found = []
    for strength, group in groups.items():
        loss = float(np.median(losses[strength]))
        found.append(
            {
                "cost_strength": strength,
                "runs": len(group),
                "empty": sum(_empty(p) for p in group),
                "loss": loss,
                "lowest_loss": float(losses[strength].min()),
                "highest_loss": float(losses[strength].max()),
                "times_best": loss / best if best > 0 else None,
                "test_loss": _median([p.get("test_loss") for p in group], default=None),
                "wiring": _median([p["wiring"] for p in group], default=0.0),
                "connections": _median([p.get("connections") for p in group], default=None),
                "harmless": loss <= limit,
            }
        )
    return found


def selection_loss(metrics: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """By which loss the runs of a sweep are compared: its name among their metrics, and the rows that it is of.

    On validation rows, which are there to choose by. Runs of earlier versions had held-out rows for choice and report.
    """
    name = "validation_prediction_loss"
    if metrics and all(name in of_run for of_run in metrics):
        return name, "validation"
    return "test_prediction_loss", "held-out"


def _median(values: Sequence[Any], *, default: Any) -> Any:
    """The median of those that are numbers; the default where none is."""
    numbers = [float(value) for value in values if _finite(value)]
    return float(np.median(numbers)) if numbers else default


def _empty(point: Mapping[str, Any]) -> bool:
    return point.get("connections") == 0 or float(point["wiring"]) == 0


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
