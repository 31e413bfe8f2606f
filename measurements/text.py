"""Text: `python -m measurements text [--seeds N] [--steps N]`: what sparse wiring costs a transformer, and shows.

Trains the recipe `python_text` by each of METHODS over the seeds 0 … n − 1, all for equally many steps, and reports
everything as a ratio to the dense (vanilla) network of the same seed, because what is read differs by machine.

1. Validation loss; connections that are left when the weakest are removed until it has risen by 5 %, with no refit.
2. Does it close the quote that was opened? Pairs of contexts differ in one byte, the quote that opened a string, ' or
   ", and the network is asked which of the two comes next where the string ends. The circuit is the smallest group of
   connections found that keeps SHARE of what the network knows about that, all others carrying their mean over the
   pairs (which a bias can carry as well). It is found on pairs of the training and validation files and judged on
   pairs of the test files: sufficient (the answer with the circuit alone), necessary (with all but the circuit), both
   beside random groups with as many connections in each weight layer and of like strength. A network that is not
   clearly better than chance at it (KNOWN) has no circuit.

Every seed is kept in reports/rows/ as it is ready, and a run that was ended goes on where it stopped. Writes
`reports/text.json`: {origin, steps, methods: {method: {seed: figures}}, ratios}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bimt_engine.data.dataset import Dataset, PartName, data_generator
from bimt_engine.data.registry import make_dataset
from bimt_engine.fingerprint import code_hash
from bimt_engine.networks.network import Network
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Method, Spec
from bimt_engine.training.batches import prediction_loss
from bimt_engine.training.loop import Training, strengths
from measurements.reproduce import merge
from measurements.rows import gather

ROW_VERSION = 1  # raise it when a row says more, or something else, than before
RECIPE = "python_text"
METHODS: tuple[Method, ...] = ("vanilla", "l1_swap", "bimt")
RISE = 0.05  # of the loss, that pruning may cost
WINDOWS = 256  # of a part, whose loss pruning is judged by: 16 384 bytes
QUOTES = b"'\""
BEFORE = 32  # bytes of a context, the last of which is the last one inside of the string
STRING = re.compile(rb"""(?<![\w'"\\])(['"])([A-Za-z0-9_ .,:/<>=()-]{2,20})\1""")
PAIRS = 96  # that a circuit is found by, and as many that it is judged by
SHARE = 0.95  # of what the network knows above chance
KNOWN = 0.1  # of log 2, by which the network's loss between the two quotes must be below chance
GROUPS = 50  # random ones
STRATA = 20  # by |w| · standard deviation of what it carries, within each weight layer
IG_STEPS = 3  # points between all connections at their means and none
CLAIMS = ("sufficiency", "random_sufficiency", "necessity", "random_necessity", "p_sufficiency", "p_necessity")
DROPS = (0.3, 0.15, 0.07, 0.03)  # shares of the circuit that are removed at once; the next where one is too many

Masks = dict[str, Tensor]


# --- pairs of contexts --------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Contexts in which a string is open, once by each kind of quote; everything else in a pair is the same.

    single, double   (N, BEFORE) tokens
    """

    single: Tensor
    double: Tensor

    def __len__(self) -> int:
        return len(self.single)


def quote_pairs(data: Dataset, parts: tuple[PartName, ...], count: int, *, seed: int) -> Pairs:
    """So many pairs from the windows of these parts, drawn by the seed. Raises ValueError where there are too few."""
    found: list[bytes] = []
    for part in parts:
        windows = data.part(part)[0]
        order = data_generator(seed, f"quotes of {part}").permutation(len(windows))
        for row in order:
            found += _open_strings(windows[row].tobytes())
            if len(found) >= count * (parts.index(part) + 1) // len(parts):
                break
    if len(found) < count:
        raise ValueError(f"{len(found)} strings are found in {' and '.join(parts)}, fewer than {count}")
    kept = np.frombuffer(b"".join(found[:count]), np.uint8).reshape(count, BEFORE)
    opened = _last_quote(kept)
    pair = []
    for quote in QUOTES:
        changed = kept.copy()
        changed[np.arange(count), opened] = quote
        pair.append(torch.from_numpy(changed.astype(np.int64)))
    return Pairs(*pair)


def _open_strings(window: bytes) -> Iterator[bytes]:
    """Contexts that end inside a string of this window, right before it is closed; one for each string."""
    for match in STRING.finditer(window):
        end = match.end() - 1
        if end >= BEFORE and match.start() >= end - BEFORE:
            yield window[end - BEFORE : end]


def _last_quote(contexts: np.ndarray) -> np.ndarray:
    quotes = np.isin(contexts, list(QUOTES))
    return contexts.shape[1] - 1 - quotes[:, ::-1].argmax(axis=1)


# --- the question, asked of a network and of parts of it -------------------------------------------


class _Carried(TorchFunctionMode):
    """The mean of what enters each linear map, by the identity of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.means: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear:
            self.means[id(args[1])] = args[0].detach().flatten(0, -2).mean(dim=0)
        return func(*args, **(kwargs or {}))


class Question:
    """Which quote comes next, as a function of the connections that are kept.

    A connection that is not kept carries its mean over the pairs that the circuit is found by.
    """

    def __init__(self, network: Network, pairs: Pairs) -> None:
        self.network, self.pairs = network, pairs
        self.parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
        self.layers = network.wiring.weight_layers
        own = dict(network.named_parameters())
        with torch.no_grad(), _Carried() as carried:
            network.forward_with_hooks(torch.cat([pairs.single, pairs.double]))
        self.means = {w.parameter: carried.means[id(own[w.parameter])] for w in self.layers}

    def all(self) -> Masks:
        """Everything kept that is not zero."""
        return {w.parameter: self.parameters[w.parameter] != 0 for w in self.layers}

    def values(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters when these connections are kept, as shares 0 … 1; differentiable in the shares."""
        values = dict(self.parameters)
        for weights in self.layers:
            weight, share = self.parameters[weights.parameter], kept[weights.parameter].to(self.dtype)
            values[weights.parameter] = weight * share
            assert weights.bias is not None
            values[weights.bias] = values[weights.bias] + (weight * (1 - share)) @ self.means[weights.parameter]
        return values

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return next(iter(self.parameters.values())).dtype

    def margins(self, kept: Mapping[str, Tensor], pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
        """By how much the right quote is scored above the other: (N,) where ' was opened, and where \" was."""
        asked = pairs or self.pairs
        contexts = torch.cat([asked.single, asked.double])
        scores = functional_call(self.network, self.values(kept), (contexts,))[:, -1]
        above = scores[:, QUOTES[1]] - scores[:, QUOTES[0]]
        return -above[: len(asked)], above[len(asked) :]

    def loss(self, kept: Mapping[str, Tensor], pairs: Pairs | None = None) -> Tensor:
        """Cross entropy of which context of a pair is which, by the scores of the two quotes; log 2 by chance.

        What the network prefers whatever was opened falls out of it.
        """
        single, double = self.margins(kept, pairs)
        return functional.softplus(-single - double).mean()

    def answers(self, kept: Mapping[str, Tensor], pairs: Pairs) -> dict[str, float]:
        """The loss, the mean difference that the opened quote makes to the scores, and how often it has the right sign.

        right   how often the quote that was opened is scored above the other.
        """
        with torch.no_grad():
            single, double = self.margins(kept, pairs)
            return {
                "loss": float(self.loss(kept, pairs)),
                "difference": float((single + double).mean()),
                "accuracy": float((single + double > 0).float().mean()),
                "right": float(torch.cat([single > 0, double > 0]).float().mean()),
            }

    def importance(self, kept: Masks) -> Masks:
        """How much the loss changes when a connection goes back to its mean: gradients along the way, summed."""
        total = {name: torch.zeros_like(self.parameters[name]) for name in kept}
        for step in range(1, IG_STEPS + 1):
            shares = {n: (mask.to(self.dtype) * (step / IG_STEPS)).requires_grad_() for n, mask in kept.items()}
            gradients = torch.autograd.grad(self.loss(shares), list(shares.values()))
            for name, gradient in zip(shares, gradients, strict=True):
                total[name] += gradient
        return {name: gradient.abs().masked_fill(~kept[name], -1.0) for name, gradient in total.items()}


def find_circuit(question: Question) -> Masks:
    """The smallest group found that keeps SHARE of what the network knows above chance, weakest removed first."""
    kept = question.all()
    limit = _limit(question, kept)
    stage = 0
    while stage < len(DROPS):
        scores = question.importance(kept)
        flat = torch.cat([score.flatten() for score in scores.values()])
        count = _count(kept)
        left = math.ceil((1 - DROPS[stage]) * count)
        if left == count:
            break
        strongest = torch.zeros(flat.shape, dtype=torch.bool)
        strongest[flat.argsort(descending=True, stable=True)[:left]] = True
        parts = strongest.split([score.numel() for score in scores.values()])
        fewer = {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
        with torch.no_grad():
            good = float(question.loss(fewer)) <= limit
        kept, stage = (fewer, stage) if good else (kept, stage + 1)
    return kept


def _limit(question: Question, kept: Masks) -> float:
    with torch.no_grad():
        whole = float(question.loss(kept))
    return whole + (1 - SHARE) * max(0.0, math.log(2) - whole)


def like_groups(question: Question, circuit: Masks, count: int, *, seed: int) -> Iterator[Masks]:
    """Random groups with as many connections in each weight layer and stratum of strength; any may be drawn."""
    generator = torch.Generator().manual_seed(seed)
    contexts = torch.cat([question.pairs.single, question.pairs.double])
    strength, start = strengths(question.network, contexts), 0
    strata: dict[str, list[Tensor]] = {}
    for weights in question.layers:
        size = question.parameters[weights.parameter].numel()
        strata[weights.parameter] = list(strength[start : start + size].argsort(stable=True).chunk(STRATA))
        start += size
    for _ in range(count):
        group = {}
        for name, mask in circuit.items():
            flat = torch.zeros(mask.numel(), dtype=torch.bool)
            for stratum in strata[name]:
                drawn = torch.randperm(len(stratum), generator=generator)[: int(mask.flatten()[stratum].sum())]
                flat[stratum[drawn]] = True
            group[name] = flat.view(mask.shape)
        yield group


def examine_quotes(network: Network, data: Dataset, *, seed: int, groups: int = GROUPS) -> dict[str, Any]:
    """The circuit that carries which quote was opened, and what it does on pairs that it was not found by."""
    question = Question(network, quote_pairs(data, ("train", "validation"), PAIRS, seed=seed))
    unseen = quote_pairs(data, ("test",), PAIRS, seed=seed)
    everything = question.all()
    own, of_unseen = question.answers(everything, question.pairs), question.answers(everything, unseen)
    result: dict[str, Any] = {"connections": _count(everything), "network": of_unseen}
    if max(own["loss"], of_unseen["loss"]) > (1 - KNOWN) * math.log(2):
        return result | {"edges": None} | dict.fromkeys(CLAIMS)
    circuit = find_circuit(question)
    rest = _without(everything, circuit)
    random = list(like_groups(question, circuit, groups, seed=seed))
    alone = [question.answers(group, unseen)["difference"] for group in random]
    without = [question.answers(_without(everything, group), unseen)["difference"] for group in random]
    result |= {
        "edges": _count(circuit),
        "edges_by_layer": {name: int(mask.sum()) for name, mask in circuit.items() if mask.any()},
        "circuit": question.answers(circuit, unseen),
        "without": question.answers(rest, unseen),
        "random_alone": statistics.median(alone),
        "random_without": statistics.median(without),
    }
    whole = result["network"]["difference"]
    claims = (
        result["circuit"]["difference"] / whole,
        result["random_alone"] / whole,
        1 - result["without"]["difference"] / whole,
        1 - result["random_without"] / whole,
        _p_value(sum(a >= result["circuit"]["difference"] for a in alone), groups),
        _p_value(sum(w <= result["without"]["difference"] for w in without), groups),
    )
    return result | dict(zip(CLAIMS, claims, strict=True))


def _count(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def _without(everything: Masks, group: Masks) -> Masks:
    return {name: everything[name] & ~mask for name, mask in group.items()}


def _p_value(as_good: int, groups: int) -> float:
    return (as_good + 1) / (groups + 1)


# --- pruning ------------------------------------------------------------------------------------


def fewest_connections(network: Network, data: Dataset, *, seed: int, dense: float | None = None) -> dict[str, Any]:
    """How many of the strongest connections keep the validation loss within RISE, of the network's own and of `dense`.

    By |w| · standard deviation of what each carries, over training windows; nothing is refitted. The loss is not
    monotone in their number, so that all numbers of a grid are tried; its steps are a twentieth.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    names = [weights.parameter for weights in network.wiring.weight_layers]
    examples = {part: _some(data, part, seed) for part in ("train", "validation", "test")}
    order = strengths(network, examples["train"][0][:64]).argsort(descending=True, stable=True)

    def loss(count: int, part: str) -> float:
        kept = torch.zeros(len(order), dtype=torch.bool)
        kept[order[:count]] = True
        masks = kept.split([parameters[name].numel() for name in names])
        values = parameters | {
            name: parameters[name] * mask.view(parameters[name].shape) for name, mask in zip(names, masks, strict=True)
        }
        inputs, targets = examples[part]
        with torch.no_grad():
            return float(prediction_loss(functional_call(network, values, (inputs,)), targets, "cross_entropy"))

    grid = [len(order)]
    while grid[-1] > 100:
        grid.append(int(0.95 * grid[-1]))
    curve = {count: loss(count, "validation") for count in grid}
    own = curve[len(order)]
    found: dict[str, Any] = {"all": len(order), "nonzero": sum(int((parameters[n] != 0).sum()) for n in names)}
    for name, reference in (("own", own), ("dense", dense or own)):
        within = [count for count, lost in curve.items() if lost <= (1 + RISE) * reference]
        found[name] = min(within) if within else None
        found[f"{name}_test_loss"] = loss(min(within), "test") if within else None
    return found | {"reference": own, "curve": {str(count): round(lost, 4) for count, lost in curve.items()}}


def _some(data: Dataset, part: PartName, seed: int) -> tuple[Tensor, Tensor]:
    inputs, targets = data.part(part)
    drawn = np.sort(data_generator(seed, f"windows of {part}").permutation(len(inputs))[:WINDOWS])
    return torch.from_numpy(inputs[drawn].astype(np.int64)), torch.from_numpy(targets[drawn].astype(np.int64))


# --- the report ---------------------------------------------------------------------------------


def spec_of(method: Method, steps: int | None = None) -> Spec:
    """The recipe trained by this method for so many steps; all else is the same."""
    spec = load_recipe(RECIPE).spec
    update: dict[str, Any] = {"method": method, "snapshot_every": None}
    if steps is not None:
        update |= {"steps": steps, "log_every": max(1, steps // 10)}
    return spec.model_copy(update={"training": spec.training.model_copy(update=update)})


@dataclass(frozen=True)
class Trial:
    """All METHODS with one seed, for so many steps each."""

    seed: int
    steps: int

    @property
    def key(self) -> str:
        """A file name that changes with the specs and the engine's source."""
        specs = [spec_of(method, self.steps).expanded().model_dump(mode="json") for method in METHODS]
        said = json.dumps([ROW_VERSION, specs, self.seed, code_hash()])
        return f"text-{self.seed}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def run(trial: Trial) -> dict[str, Any]:
    """The row of a trial: {origin, methods: {method: figures}}."""
    data = make_dataset(load_recipe(RECIPE).spec.dataset, seed=0)
    methods: dict[str, Any] = {}
    for method in METHODS:
        dense = methods["vanilla"]["pruned"]["reference"] if methods else None
        methods[method] = measure(spec_of(method, trial.steps), data, seed=trial.seed, dense=dense)
    return {"origin": dict(data.origin or {}), "methods": methods}


def measure(spec: Spec, data: Dataset, *, seed: int, dense: float | None, groups: int = GROUPS) -> dict[str, Any]:
    """One training and all that is asked of it. dense: the pruning reference of the vanilla network of this seed."""
    started = time.process_time()
    training = Training.begin(spec, data, seed=seed)
    row = [update.row for update in training.updates() if update.row is not None][-1]
    trained = time.process_time()
    network = training.network.to("cpu")
    result: dict[str, Any] = {name: row[name] for name in row if name.endswith(("loss", "accuracy"))}
    result["pruned"] = fewest_connections(network, data, seed=seed, dense=dense)
    result["quotes"] = examine_quotes(network, data, seed=seed, groups=groups)
    result["seconds_cpu"] = {"training": round(trained - started), "rest": round(time.process_time() - trained)}
    return result


def ratios(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """Each method's figures as shares of those of the dense network of the same seed."""
    dense = methods["vanilla"]
    read = {
        "validation_loss": lambda result: result["validation_prediction_loss"],
        "test_loss": lambda result: result["test_prediction_loss"],
        "connections_own": lambda result: result["pruned"]["own"],
        "connections_dense": lambda result: result["pruned"]["dense"],
        "circuit_edges": lambda result: result["quotes"]["edges"],
    }
    return {
        method: {
            name: [_share(figure(result), figure(dense[seed])) for seed, result in by_seed.items()]
            for name, figure in read.items()
        }
        for method, by_seed in methods.items()
    }


def _share(figure: float | None, of: float | None) -> float | None:
    return None if figure is None or not of else figure / of


def table(report: Mapping[str, Any]) -> Table:
    """The report as people read it: medians of ratios to the dense network, and of what is a share already."""
    drawn = Table(title=f"{RECIPE}, {report['steps']:,} steps: median (all) over seeds, as ratios to vanilla")
    for heading in ("", *report["methods"]):
        drawn.add_column(heading, justify="right" if heading else "left")
    for name in next(iter(report["ratios"].values())):
        drawn.add_row(name, *(_cell(of[name]) for of in report["ratios"].values()))
    for name in CLAIMS:
        rows = ([result["quotes"][name] for result in by_seed.values()] for by_seed in report["methods"].values())
        drawn.add_row(f"quotes: {name}", *(_cell(row) for row in rows))
    rows = ([result["quotes"]["network"]["accuracy"] for result in of.values()] for of in report["methods"].values())
    drawn.add_row("quotes: accuracy", *(_cell(row) for row in rows))
    return drawn


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    each = ", ".join("–" if value is None else f"{value:.3g}" for value in values)
    return f"{statistics.median(known):.3g} ({each})" if known else "–"


def main(arguments: list[str] | None = None) -> int:
    """Train, examine, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m measurements text", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … n−1")
    parser.add_argument("--steps", type=int, default=None, help="of each training; as the recipe says by default")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="seeds trained at once")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    trials = [Trial(seed, args.steps or load_recipe(RECIPE).spec.training.steps) for seed in range(args.seeds)]
    rows: dict[int, dict[str, Any]] = {}
    for trial, row in gather(trials, run, args.folder / "rows", processes=args.processes):
        rows[trial.seed] = row
        console.print(
            f"seed {trial.seed}: " + ", ".join(f"{m} {of['seconds_cpu']}" for m, of in row["methods"].items())
        )
    methods: dict[str, dict[str, Any]] = {
        method: {str(seed): rows[seed]["methods"][method] for seed in sorted(rows)} for method in METHODS
    }
    report = {
        "origin": next(iter(rows.values()))["origin"],
        "steps": trials[0].steps,
        "methods": methods,
        "ratios": ratios(methods),
    }
    merge(args.folder / "text.json", report)
    console.print(table(report))
    console.print(f"Wrote {args.folder}/text.json.")
    return 0
