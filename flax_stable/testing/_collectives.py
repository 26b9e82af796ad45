"""What a compiled program moves between devices."""

import functools
import math
import re
from collections import Counter
from typing import NamedTuple

import jax

_KINDS = (
    "all-reduce|all-gather|reduce-scatter|ragged-all-to-all|all-to-all"
    "|collective-permute|collective-broadcast"
)
# An instruction is "%name = type opcode(operands), attribute=...".
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|\w+_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """What collectives of one kind move in a run of a program; see `collectives`.

    Attributes:
      times: how often a device takes part in one.
      bytes: how many bytes it sends.
    """

    times: int
    bytes: int


def collectives(program: jax.stages.Compiled | str) -> dict[str, Traffic]:
    """Counts what a compiled program moves between devices, and its bytes.

    A collective in a loop counts once for each turn.  The bytes are those that one
    device sends where ``n`` of them pass the parts on in a ring, which no other way
    betters: of an array of ``b`` bytes, ``(n - 1) / n * b`` for an all-gather to it, a
    reduce-scatter or an all-to-all of it, twice as many for an all-reduce of it, and
    ``b`` for a collective-permute or a broadcast.

    This is what XLA made of the program for the devices at hand: on a CPU it sums
    bfloat16 as float32, and has an all-reduce where accelerators have a reduce-scatter.

    Args:
      program: a compiled program, as ``jax.jit(f).lower(...).compile()`` gives it, or
        its text.

    Returns:
      For each kind that occurs, the most frequent one first, a named tuple: how many
      ``times`` a device takes part in one, and the ``bytes`` that it sends in all.  Of
      branches all are counted; a loop that says neither how many turns it takes nor
      where it ends, counting up from 0, counts as one turn.

    Raises:
      TypeError: ``program`` is neither compiled nor text.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> compiled = jax.jit(jnp.sum).lower(jnp.ones(8)).compile()
      >>> fs.testing.collectives(compiled)  # nothing moves on one device
      {}

    References:
      Thakur et al., `Optimization of Collective Communication Operations in MPICH
      <https://doi.org/10.1177/1094342005051521>`_, 2005.
    """
    if isinstance(program, jax.stages.Compiled):
        program = program.as_text() or ""
    if not isinstance(program, str):
        raise TypeError(
            "collectives expects a compiled program or its text, but got "
            f"{type(program).__name__}. Compile a function f for its arguments: "
            "jax.jit(f).lower(*args).compile()."
        )
    computations, entry = _computations(program)
    size = re.search(r"num_partitions=(\d+)", program)
    everyone = int(size[1]) if size else 1

    @functools.cache
    def total(name: str) -> tuple[Counter, Counter]:
        counts: Counter[str] = Counter()
        sent: Counter[str] = Counter()
        for line in computations.get(name, ()):
            if found := _COLLECTIVE.search(line):
                kind, moved = _sent(found, line, everyone)
                # What TPUs have for a reduce-scatter.
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind, moved = "reduce-scatter", moved // 2
                counts[kind] += 1
                sent[kind] += moved
            elif "-update(" in line or "-done(" in line:
                continue
            turns = _turns(line, computations)
            for callee in _callees(line):
                for own, others in zip((counts, sent), total(callee), strict=True):
                    for kind, number in others.items():
                        own[kind] += turns * number
        return counts, sent

    counts, sent = total(entry)
    return {kind: Traffic(n, sent[kind]) for kind, n in counts.most_common()}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the first to run."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if not line.startswith(" ") and (head := _COMPUTATION.match(line)):
            lines = found[head[2]] = []
            entry = head[2] if head[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return found, entry


def _callees(line: str) -> list[str]:
    branches = _BRANCHES.search(line)
    names = [] if branches is None else branches[1].replace("%", "").split(", ")
    return names + _CALLED.findall(line)


def _turns(line: str, computations: dict[str, list[str]]) -> int:
    """How often an instruction runs what it calls."""
    loop = _LOOP.search(line)
    if loop is None:
        return 1
    if known := _TRIPS.search(line):
        return int(known[1])
    # TPUs do not say. Of `while (i < end) i += step` these are the parts.
    test, body = (_instructions(computations.get(name, [])) for name in loop.groups())
    compared = re.search(
        r" compare\(%?([\w.-]+), %?([\w.-]+)\), direction=LT", test.get("ROOT", "")
    )
    if compared is None:
        return 1
    counter, end = (test.get(name, "") for name in compared.groups())
    place = re.search(r" index=(\d+)", counter)
    values = re.findall(r"%([\w.-]+)", body.get("ROOT", "").rpartition(" tuple(")[2])
    if place is None or len(values) <= int(place[1]):
        return 1
    added = re.search(r" add\(.*%([\w.-]+)\)", body.get(values[int(place[1])], ""))
    step = _constant(body.get(added[1], "")) if added else 1
    return math.ceil(_constant(end) / step)


def _instructions(lines: list[str]) -> dict[str, str]:
    """The instructions of a computation by their names, the last one as ROOT too."""
    found = {}
    for line in lines:
        name, _, rest = line.replace("ROOT", "").strip(" %").partition(" = ")
        found[name] = rest
        if "ROOT" in line:
            found["ROOT"] = line
    return found


def _constant(instruction: str) -> int:
    found = re.search(r" constant\((\d+)\)", instruction)
    return int(found[1]) if found else 1


def _sent(found: re.Match, line: str, everyone: int) -> tuple[str, int]:
    """The kind of a collective, and the bytes that a device sends for it."""
    type_, kind, start = found.groups()
    arrays = [_bytes(*array) for array in _ARRAY.findall(type_)]
    n = _group_size(line, everyone)
    if kind == "collective-permute":
        # Once it is only started, the type has what goes in, what comes out, and flags.
        return kind, arrays[0] if start else sum(arrays)
    whole = sum(arrays)
    if kind == "collective-broadcast":
        return kind, whole
    if kind == "all-gather" and start:
        whole = whole * n // (n + 1)
    if kind == "reduce-scatter":
        whole *= n
    return kind, (1 + (kind == "all-reduce")) * whole * (n - 1) // n


def _bytes(dtype: str, bits: str, shape: str) -> int:
    elements = math.prod(int(size) for size in shape.split(",") if size)
    return elements * (8 if dtype == "pred" else int(bits)) // 8


def _group_size(line: str, everyone: int) -> int:
    """How many devices a collective runs over: XLA has four ways to write that."""
    if rows := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(rows[1])
    if first := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return first[1].count(",") + 1
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        # A part of an axis is 'axis':(product of the parts before it)size.
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return everyone
