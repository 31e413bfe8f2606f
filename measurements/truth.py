"""`python -m measurements truth`: data whose modules are known, networks trained on them, and who finds the modules.

For each case, training method and seed 0 … n − 1, none of them picked: the hidden neurons' true parts, the parts that
the evidence reports, and those of three other methods, which are given the number of parts where they need it:
Leiden on the weights, a spectral cut of the weights, and average-linkage clustering of the activations' correlations.
Scored by the adjusted Rand index of the neurons, homogeneity and completeness; cases without modules by how many are
claimed.

Every row is kept in reports/rows/ as it is ready; a run that was ended goes on where it stopped, and `--budget` ends it
after so many minutes. Writes reports/truth.json and reports/truth.html.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bimt_engine.fingerprint import code_hash
from bimt_engine.spec import Spec
from measurements.reproduce import STYLE, merge
from measurements.rows import gather
from measurements.truth_cases import CASES, METHODS, Case

ROW_VERSION = 3  # raise it when a row says more, or something else, than before
METRICS = (
    "connections",
    "validation_prediction_loss",
    "test_prediction_loss",
    "test_accuracy",
    "test_r2",
    "supported_modules",
)
PURE = 0.95  # of what a neuron carries, in one part
FINDERS = ("ours", "leiden", "spectral", "activations")
Labels = list[int]

# --- one row ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A case, a method, a seed, and by how much the λ of the case is multiplied."""

    case: str
    method: str
    seed: int
    cost_factor: float = 1.0

    @property
    def spec(self) -> Spec:
        """The spec that is trained."""
        return CASES[self.case].spec(self.method, cost_factor=self.cost_factor)

    @property
    def key(self) -> str:
        """A file name that changes with the spec and the engine's source."""
        spec = self.spec.expanded().model_dump(mode="json")
        said = json.dumps([ROW_VERSION, spec, self.seed, code_hash()])
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        return f"truth-{self.case}-{self.method}-{self.seed}-{digest}"


def run(trial: Trial) -> dict[str, Any]:
    """Train, gather the evidence, and score every finder; plain JSON."""
    from bimt_engine.analysis.context import AnalysisContext
    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.analysis.modules.effects import Ablator
    from bimt_engine.analysis.wiring_efficiency import relayout
    from bimt_engine.data.registry import make_dataset
    from bimt_engine.training.loop import Training

    case, seed = CASES[trial.case], trial.seed
    spec = trial.spec.expanded()
    began = time.process_time()
    dataset = make_dataset(spec.dataset, seed=seed)
    training = Training.begin(spec, dataset, seed=seed)
    for _ in training.updates():
        pass
    trained = time.process_time()
    evidence = gather_evidence(training.network, dataset, spec, seed=seed)
    ended = time.process_time()
    document = evidence.document()
    found = reported(document, case.layer)
    row: dict[str, Any] = {
        "case": trial.case,
        "method": trial.method,
        "seed": seed,
        "cost_factor": trial.cost_factor,
        "seconds_cpu": {"training": trained - began, "evidence": ended - trained},
        "wiring": relayout(evidence.network, seed=seed).document(),
        "metrics": {name: document["metrics"].get(name) for name in METRICS},
        "verdict": document["metrics"]["verdict"],
        "claimed": claimed(document),
        "reported": found["what"],
    }
    if not case.has_truth:
        return row
    context = AnalysisContext.of(evidence.network, dataset, loss=spec.training.loss, seed=seed)
    ablator = Ablator(context, context.network, seed=seed)
    neurons = [neuron for neuron in hidden(document, case.layer or found["layer"])]
    truth, purity = true_labels(case, ablator, document, neurons)
    kept = [i for i, label in enumerate(truth) if label is not None]
    neurons, true = [neurons[i] for i in kept], [truth[i] for i in kept]
    row["truth"] = {"parts": len(set(true)), "neurons": len(neurons), "purity": purity}
    row["scores"] = {
        finder: score(true, labels)
        for finder, labels in candidates(document, ablator, neurons, len(set(true)), found, seed)
    }
    trees = {identifier: n for n, tree in enumerate(document["interior"].get("trees", [])) for identifier in tree}
    row["trees"] = score(true, [trees.get(identifier, -1 - n) for n, identifier in enumerate(neurons)])
    if case.parts:
        row["exact"] = exact(found["reads"], case.parts)
    return row


def exact(reads: Sequence[frozenset[str]], parts: Sequence[frozenset[str]]) -> bool:
    """Whether there are as many reported parts as true ones, and each reads the inputs of another one alone."""

    def owners(read: frozenset[str]) -> list[int]:
        return [n for n, part in enumerate(parts) if all(_named_by(name, part) for name in read)]

    return bool(reads) and sorted(owner for read in reads for owner in owners(read)) == list(range(len(parts)))


def _named_by(name: str, patterns: frozenset[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def reported(document: Mapping[str, Any], layer: str | None) -> dict[str, Any]:
    """The parts that the evidence reports: its modules, where there are several, else the primary partition.

    layer   the one whose neurons are asked for. Of its partitions that with most groups is taken: what is separate at
            this layer. Another one of it is coarser: groups are merged there whose results later layers combine.
    """
    interior = document["interior"]
    partitions = interior.get("partitions", [])
    primary = interior.get("primary")
    chosen = None if primary is None else partitions[primary]
    if layer is not None:
        chosen = max((p for p in partitions if p["layer"] == layer), key=lambda p: len(p["groups"]), default=chosen)
    modules = document["modules"]
    if len(modules) > 1 and layer is None:
        labels = {neuron: module["name"] for module in modules for neuron in module["neurons"]}
        reads = [frozenset(module["inputs"]) for module in modules]
        return {"what": "modules", "layer": None, "labels": labels, "reads": reads}
    if chosen is None:
        return {"what": "one piece", "layer": None, "labels": {}, "reads": []}
    labels = {neuron: group["name"] for group in chosen["groups"] for neuron in group["neurons"]}
    reads = [frozenset(read["name"] for read in group["reads"]) for group in chosen["groups"]]
    return {"what": chosen["kind"], "layer": chosen["layer"], "labels": labels, "reads": reads}


def claimed(document: Mapping[str, Any]) -> int:
    """How many modules and groups inside them the evidence calls supported."""
    return int(document["metrics"]["supported_modules"]) + int(document["metrics"]["interior_modules"])


def hidden(document: Mapping[str, Any], upto: str | None) -> list[str]:
    """Ids of the live neurons between the ends, up to a layer."""
    layers = [layer["name"] for layer in document["graph"]["graph"]["layers"]]
    inner = layers[1:-1] if upto is None else layers[1 : layers.index(upto) + 1]
    used = {edge[end] for edge in document["graph"]["edges"] for end in ("source", "target")}
    return [node["id"] for node in document["graph"]["nodes"] if node["layer"] in inner and node["id"] in used]


def true_labels(
    case: Case, ablator: Any, document: Mapping[str, Any], neurons: Sequence[str]
) -> tuple[list[int | None], float | None]:
    """The true part of each neuron (the inputs that move it most, or the representation that it lies in), and purity.

    Purity is the share of the neurons that have at least PURE in one part. Where it is low, the network has no neurons
    of one part, and there is nothing to find in it, whatever the task is made of.
    """
    shares = _by_inputs(case, ablator, neurons) if case.parts else _by_representation(document, neurons)
    kept = [max(of) for of in shares if of is not None]
    labels = [None if of is None else int(np.argmax(of)) for of in shares]
    return labels, sum(of >= PURE for of in kept) / len(kept) if kept else None


def _by_representation(document: Mapping[str, Any], neurons: Sequence[str]) -> list[Sequence[float] | None]:
    """Of each neuron the shares of the irreducible representations."""
    known = document["representations"]["neurons"]
    return [known[i]["product"]["shares"] if _varies(known.get(i)) else None for i in neurons]


def _varies(neuron: Mapping[str, Any] | None) -> bool:
    """Whether the mean over pairs with the same product differs between products at all."""
    return neuron is not None and (neuron["product"]["variance"] or 0.0) > 1e-12


def _by_inputs(case: Case, ablator: Any, neurons: Sequence[str]) -> list[Sequence[float] | None]:
    """Of each neuron the shares of what it moves by when the inputs of one part are drawn anew."""
    import torch

    wiring, names = ablator.network.wiring, list(ablator.context.dataset.feature_names)

    def activations(inputs: Any) -> dict[str, np.ndarray]:
        with torch.no_grad():
            _, seen = ablator.network.forward_with_hooks(inputs)
        return {name: wiring.layer(name).to_places(of).flatten(0, -2).numpy() for name, of in seen.items()}

    before = activations(ablator.inputs)
    moved = []
    for part in case.parts:
        changed = ablator.inputs.clone()
        columns = [n for n, name in enumerate(names) if _named_by(name, part)]
        changed[..., columns] = ablator.inputs[ablator.partner][..., columns]
        after = activations(changed)
        moved.append([_moved(before, after, identifier) for identifier in neurons])
    return [[one / sum(of) for one in of] if max(of) > 0 else None for of in zip(*moved, strict=True)]


def _moved(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], identifier: str) -> float:
    layer, _, slot = identifier.rpartition(":")
    return float(((before[layer][:, int(slot)] - after[layer][:, int(slot)]) ** 2).mean())


def candidates(
    document: Mapping[str, Any], ablator: Any, neurons: Sequence[str], parts: int, found: Mapping[str, Any], seed: int
) -> list[tuple[str, Labels]]:
    """What every finder says of the neurons. Our own parts come first; neurons in none of them stand alone."""
    from bimt_engine.analysis.communities import layered, leiden, spectral_cut
    from bimt_engine.analysis.graph import Graph

    if not neurons:  # nothing was learnt, and there is nothing to divide
        return [(finder, []) for finder in FINDERS]
    ours = found["labels"] if found["labels"] else dict.fromkeys(neurons, "one")
    net, ids = layered(Graph.from_json(document["graph"]))
    by_weights = leiden(net, seeds=[1000 * seed + i for i in range(20)])[0]
    cut = spectral_cut(net, min(parts, net.neurons - 1), seed=seed)[1] if net.neurons > 2 else by_weights
    position = {identifier: n for n, identifier in enumerate(ids)}
    return [
        ("ours", _numbered([ours.get(i, f"alone {i}") for i in neurons])),
        ("leiden", [int(by_weights[position[i]]) for i in neurons]),
        ("spectral", [int(cut[position[i]]) for i in neurons]),
        ("activations", _by_activations(ablator, neurons, parts)),
    ]


def _by_activations(ablator: Any, neurons: Sequence[str], parts: int) -> Labels:
    """Average linkage of 1 − |correlation| over the examples, cut into the true number of parts."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    wiring = ablator.network.wiring
    columns = []
    for identifier in neurons:
        layer, _, slot = identifier.rpartition(":")
        columns.append(wiring.layer(layer).to_places(ablator.activations[layer]).flatten(0, -2).numpy()[:, int(slot)])
    if len(columns) < 2:
        return [0] * len(columns)
    centred = np.stack(columns) - np.mean(columns, axis=1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-300)
    apart = np.clip(1 - np.abs(centred @ centred.T), 0, 1)
    np.fill_diagonal(apart, 0)
    labels = fcluster(linkage(squareform(apart, checks=False), "average"), parts, "maxclust")
    return [int(label) for label in labels]


def _numbered(names: Sequence[str]) -> Labels:
    order = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return [order[name] for name in names]


def score(true: Sequence[Any], found: Sequence[int]) -> dict[str, float]:
    """Adjusted Rand index, homogeneity (parts pure in truth) and completeness (truth not torn apart)."""
    from bimt_engine.analysis.communities import adjusted_rand, relabelled

    if not true:
        return {"ari": 0.0, "homogeneity": 0.0, "completeness": 0.0}
    one, other = relabelled(np.array(true)), relabelled(np.array(found))
    return {
        "ari": adjusted_rand(one, other),
        "homogeneity": _explained(one, other),
        "completeness": _explained(other, one),
    }


def _explained(of: np.ndarray, by: np.ndarray) -> float:
    """1 − H(of | by) / H(of); 1 where there is nothing to explain. (Rosenberg and Hirschberg 2007)"""

    def entropy(labels: Sequence[Any]) -> float:
        shares = np.array(list(Counter(labels).values())) / len(labels)
        return float(-(shares * np.log(shares)).sum())

    whole = entropy(of.tolist())
    joint = entropy(list(zip(of.tolist(), by.tolist(), strict=True)))
    return 1.0 if whole == 0 else 1.0 - (joint - entropy(by.tolist())) / whole


# --- the report ---------------------------------------------------------------------------------


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the seeds of one case and method come to."""
    first = rows[0]
    entry: dict[str, Any] = {
        "seeds": len(rows),
        "claimed_in": sum(row["claimed"] > 0 for row in rows),
        "reported_as": dict(Counter(row["reported"] for row in rows)),
        "median_connections": statistics.median(row["metrics"]["connections"] for row in rows),
        "median_seconds_cpu": {
            part: statistics.median(row["seconds_cpu"][part] for row in rows) for part in ("training", "evidence")
        },
        "rows": sorted((dict(row) for row in rows), key=lambda row: row["seed"]),
    }
    if "scores" in first:
        entry["finders"] = {
            finder: {
                "perfect": sum(row["scores"][finder]["ari"] >= 0.95 for row in rows),
                "median_ari": statistics.median(row["scores"][finder]["ari"] for row in rows),
                "worst_ari": min(row["scores"][finder]["ari"] for row in rows),
                "median_homogeneity": statistics.median(row["scores"][finder]["homogeneity"] for row in rows),
            }
            for finder in FINDERS
        }
        known = [row["truth"]["purity"] for row in rows if row["truth"].get("purity") is not None]
        entry["median_purity"] = statistics.median(known) if known else None
        pure = [row["scores"]["ours"]["ari"] >= 0.95 for row in rows if (row["truth"]["purity"] or 0.0) >= PURE]
        entry["pure"] = {"seeds": len(pure), "perfect": sum(pure)}
        entry["trees_pure"] = sum(row["trees"]["homogeneity"] >= 1 - 1e-9 for row in rows)
    if "exact" in first:
        entry["exact"] = sum(row["exact"] for row in rows)
    return entry


def table(report: Mapping[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title="Who finds the planted modules? ARI ≥ 0.95, seeds 0, 1, …")
    for heading in ("case", "method", *FINDERS, "exact", "trees pure", "purity", "ours where pure", "claimed", "CPU s"):
        drawn.add_column(heading, justify="left" if heading in ("case", "method") else "right")
    for name, by_method in report.items():
        for method, entry in by_method.items():
            of = entry["seeds"]
            finders = entry.get("finders", {})
            shown = [f"{finders[f]['perfect']} of {of}" if f in finders else "–" for f in FINDERS]
            seconds = sum(entry["median_seconds_cpu"].values())
            drawn.add_row(
                name,
                method,
                *shown,
                f"{entry['exact']} of {of}" if "exact" in entry else "–",
                f"{entry['trees_pure']} of {of}" if "trees_pure" in entry else "–",
                f"{entry['median_purity']:.2f}" if entry.get("median_purity") is not None else "–",
                f"{entry['pure']['perfect']} of {entry['pure']['seeds']}" if "pure" in entry else "–",
                f"{entry['claimed_in']} of {of}",
                f"{seconds:.1f}",
            )
    return drawn


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    """The same as one HTML file, with every seed's verdict."""
    sections = []
    for name, by_method in report.items():
        lines = []
        for method, entry in by_method.items():
            for row in entry["rows"]:
                ari = {f: f"{row['scores'][f]['ari']:.2f}" for f in FINDERS} if "scores" in row else {}
                cells = [method, row["seed"], *(ari.get(f, "–") for f in FINDERS), row["verdict"]]
                lines.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{html.escape(h)}</th>" for h in ("method", "seed", *FINDERS, "verdict"))
        title = html.escape(f"{name}: {CASES[name].title}" if name in CASES else name)
        sections.append(f"<h2>{title}</h2><table><tr>{head}</tr>{''.join(lines)}</table>")
    title = "Planted modules, and who finds them (adjusted Rand index of the hidden neurons)"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{''.join(sections)}</html>",
        encoding="utf-8",
    )


def rows_of(trials: Sequence[Trial], folder: Path, *, processes: int, minutes: float | None) -> list[dict[str, Any]]:
    """The rows that are there already and those that can be made within the budget; says how far it is."""
    console, rows = Console(stderr=True), []
    for trial, row in gather(trials, run, folder, processes=processes, minutes=minutes):
        rows.append(row)
        ari = f", ARI {row['scores']['ours']['ari']:.2f}" if "scores" in row else ""
        console.print(f"{len(rows)} of {len(trials)} · {trial.case} · {trial.method} · seed {trial.seed}{ari}")
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Train, score, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m measurements truth", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(CASES), action="append", help="one case; may be repeated")
    parser.add_argument("--method", choices=METHODS, action="append", help="one training method; may be repeated")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0 … n−1")
    parser.add_argument("--budget", type=float, default=None, help="minutes; what is not ready by then is left out")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="networks trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    given = parser.parse_args(arguments)
    names = given.only or list(CASES)
    trials = [
        Trial(name, method, seed)
        for method in given.method or METHODS
        for name in names
        if method in CASES[name].methods
        for seed in range(given.seeds)
    ]
    rows = rows_of(trials, given.folder / "rows", processes=given.processes, minutes=given.budget)
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["case"]][row["method"]].append(row)
    report = {name: {method: summary(of) for method, of in methods.items()} for name, methods in grouped.items()}
    merge(given.folder / "truth.json", report)
    write_page(given.folder / "truth.html", report)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table(report))
    console.print(f"Wrote {given.folder}/truth.json and truth.html.")
    return 0
