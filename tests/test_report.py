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
