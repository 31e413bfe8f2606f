"""What `measurements/truth.py` takes for the reported parts, and how a summary counts them."""

from __future__ import annotations

from measurements.truth import reported, summary


def partition(layer: str, kind: str, *groups: str) -> dict:
    named = [{"name": f"A{n}", "neurons": of.split(), "reads": []} for n, of in enumerate(groups)]
    return {"layer": layer, "kind": kind, "groups": named}


def test_at_a_layer_the_partition_that_is_not_merged_by_later_layers_counts():
    document = {
        "modules": [{"name": "A", "neurons": ["h1:0"], "inputs": []}],
        "interior": {
            "primary": 0,
            "partitions": [
                partition("h1", "sum", "h1:0", "h1:1 h1:2"),
                partition("h1", "composition", "h1:0", "h1:1", "h1:2"),
                partition("h2", "sum", "h1:0 h2:0", "h1:1 h1:2 h2:1"),
            ],
        },
    }
    at_first = reported(document, "h1")
    assert (at_first["what"], len(set(at_first["labels"].values()))) == ("composition", 3)
    assert reported(document, None)["what"] == "sum", "without a layer, the primary partition"
    assert reported(document, "h3")["layer"] == "h1", "no partition of this layer: the primary one"


def row(seed: int, ari: float, purity: float | None) -> dict:
    scores = {finder: {"ari": ari, "homogeneity": 1.0} for finder in ("ours", "leiden", "spectral", "activations")}
    return {
        "seed": seed,
        "claimed": 2,
        "reported": "sum",
        "metrics": {"connections": 20},
        "seconds_cpu": {"training": 1.0, "evidence": 1.0},
        "scores": scores,
        "truth": {"parts": 2, "neurons": 8, "purity": purity},
        "trees": {"homogeneity": 1.0},
    }


def test_networks_whose_neurons_belong_to_one_part_each_are_counted_by_themselves():
    entry = summary([row(0, 1.0, 1.0), row(1, 0.9, 0.96), row(2, 0.0, 0.6), row(3, 1.0, None)])
    assert entry["finders"]["ours"]["perfect"] == 2
    assert entry["pure"] == {"seeds": 2, "perfect": 1}
