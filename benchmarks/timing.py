"""Seconds of several contenders that take turns, and how ours compares with a peer."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax

# A sample lasts at least this long, unless one call does.
SAMPLE = 0.01

# What a contender is: it makes a number of calls and waits for them.
Run = Callable[[int], None]


def repeat(f: Callable, *args: jax.typing.ArrayLike) -> Run:
    """Calls of a function of JAX arrays, each waited for; on a GPU, all at the end.

    There a call is launched while the one before it runs, as in a training step.
    """
    wait_each = jax.default_backend() == "cpu"

    def run(calls: int) -> None:
        for _ in range(calls):
            out = f(*args)
            if wait_each:
                jax.block_until_ready(out)
        jax.block_until_ready(out)

    return run


def seconds(run: Run, calls: int) -> float:
    """Seconds that one call takes, of several made."""
    start = time.perf_counter()
    run(calls)
    return (time.perf_counter() - start) / calls


def interleaved(contenders: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of a call in each round; the order of the contenders alternates."""
    calls = {}
    for name, run in contenders.items():
        run(1)  # compiles
        calls[name] = max(1, round(SAMPLE / seconds(run, 1)))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds):
        for name in list(contenders)[:: 1 if i % 2 else -1]:
            if calls[name] > 1:
                contenders[name](1)  # what ran before it may leave threads spinning
            samples[name].append(seconds(contenders[name], calls[name]))
    return samples


def compare(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """The ratio of ours to the peer, round by round, and that of the minima."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    found = {"median": median, "low": low, "high": high, "min": min(ours) / min(peer)}
    return {key: rounded(ratio) for key, ratio in found.items()}


def rounded(x: float) -> float:
    """Four digits: what is kept in files."""
    return float(f"{x:.4g}")


def summary(samples: Mapping[str, Sequence[float]], ours: Sequence[str]) -> dict:
    """Median seconds of all, and for each of ours its ratio to every other."""
    return {
        "seconds": {k: rounded(statistics.median(v)) for k, v in samples.items()},
        "ratios": {
            own: {
                peer: compare(samples[own], samples[peer])
                for peer in samples
                if peer not in ours
            }
            for own in ours
            if own in samples
        },
    }


def shown(row: Mapping, own: str = "ours") -> str:
    """The ratios of a row: the median, and between brackets the quartiles."""
    return "  ".join(
        f"{peer} {found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
        for peer, found in row["ratios"].get(own, {}).items()
    )
