"""What is written from the measurements that were kept."""

import report


def row(maximum, count, peer=None, **other):
    def plain(maximum):
        return {"maximum": maximum, "worst_input": 1.5, "count": count}

    key = {"function": "f", "dtype": "float32", "order": 0, "bound": 2.0}
    return {**key, **plain(maximum), "peer": peer and plain(peer), **other}


def test_documents_are_what_was_measured():
    assert report.main(["--check"]) == 0


def test_most_inputs_win_then_the_worst_mode():
    files = [
        {"rows": [row(1.0, 2**32)]},
        {"rows": [row(1.5, 9, 7.0), row(1.2, 9, 8.0)]},
    ]
    (found,) = report.collect(files).values()
    assert (found.ours.maximum, found.ours.count) == (1.0, 2**32)
    assert (found.peer.maximum, found.peer.count) == (8.0, 9)


def test_what_is_lost_or_broken_is_shown():
    rows = [row(3.0, 9, 1.0)] + [row(0.5, 9, "inf", order=k) for k in (1, 2)]
    text = report.dtype_section("float32", report.collect([{"rows": rows}]))
    assert "| `f` | 1 | **3** | 1.5 | ∞ | 0.5 |" in text
    assert "in 1: `f` (value: 1 against 3)" in text


def test_the_readme_shows_what_there_is():
    errors = report.collect([{"rows": [row(0.5, 9, 4.0, function="gelu", order=1)]}])
    assert "gelu" not in report.readme_tables(errors, {}, {})  # float32 alone
    kept = {"jax.nn": 8.0, "ours": 2.0}
    costs = {"bytes": [{"function": "gelu", "dtype": "bfloat16", "bytes": kept}]}
    text = report.readme_tables(errors, costs, {})
    assert "|  | bytes kept |\n| --- | --- |\n| `gelu` | 8 → 2 |" in text
    estimates = [
        {"function": "gelu", "dtype": dtype, "what": what, "estimate": found}
        for dtype, what, found in (
            ("bfloat16", "forward", {"ours": 1.0, "jax.nn": 2.0}),
            ("bfloat16", "backward", {"ours": 2.0, "jax.nn": 4.0}),
            ("bfloat16", "value", {"ours": 9.0, "jax.nn": 1.0}),
            ("float32", "forward", {"ours": 9.0, "jax.nn": 1.0}),
        )
    ]
    text = report.readme_tables(errors, costs, {"h200": {"estimates": estimates}})
    assert "|  | H200, estimate | bytes kept |" in text
    assert "| `gelu` | 0.50 | 8 → 2 |" in text
    assert "temporaries" not in text


def test_models_of_the_readme_are_scanned_ones_in_bfloat16():
    sizes = {"jax.nn": 100, "ours": 50}
    times = {"ours": {"jax.nn": {"median": 0.9}}}
    base = {"dtype": "bfloat16", "bytes": sizes, "ratios": times}
    costs = {
        "models": [
            {**base, "model": "gpt", "form": "scanned"},
            {**base, "model": "unrolled", "form": "unrolled"},
            {**base, "model": "wide", "form": "scanned", "dtype": "float32"},
        ],
        "networks": [
            {**base, "model": "ppo", "what": "step"},
            {"dtype": "bfloat16", "model": "ppo", "what": "trace", "ratios": times},
        ],
    }
    columns, names = report.model_columns(costs)
    assert names == ["ppo", "gpt, scanned"]
    assert columns[0].cells == dict.fromkeys(names, "0.50")
    assert columns[1].cells == dict.fromkeys(names, "0.90")
