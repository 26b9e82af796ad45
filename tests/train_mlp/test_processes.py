"""Several processes: the same bits as one, and no one is left waiting."""

import re
import signal
import socket
import time
from pathlib import Path

import pytest
from _runs import digest, run, start, table, trained

from mlp.processes import LOST, spawn

pytestmark = pytest.mark.optimized

CASE = "--reproducible --batch-size 64"


def test_two_processes_give_the_bits_of_one():
    out = run(*f"{CASE} --steps 6 --spawn 2 --cpu-devices 2".split())
    assert "on 2 cpu devices of 2 processes" in out
    rows = table(out)
    assert list(rows) == [
        "one device",
        "data parallel",
        "tensor parallel",
        "fully sharded",
    ]
    for _, relative, _, _, devices, collectives in list(rows.values())[1:]:
        assert (float(relative), devices) == (0, "2")
        assert "all-gather" in collectives
    price = re.search(
        r"a step: ([\d.]+) ms reproducible, ([\d.]+) ms plain \(([\d.]+) times\)", out
    )
    ours, plain, times = map(float, price.groups())
    assert ours / plain == pytest.approx(times, rel=0.05)
    # The other one is silent.
    assert out.count("final loss") == 1
    assert digest(out) == trained(f"{CASE} --steps 6 --mesh data=1")[1]


def unfinished(folder):
    return [path.name for path in folder.iterdir() if "tmp" in path.name]


def test_one_of_four_is_killed_in_a_save_and_the_run_taken_up_by_one(tmp_path):
    folder = tmp_path / "run"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        place = f"--coordinator 127.0.0.1:{s.getsockname()[1]} --num-processes 4"
    arguments = f"{CASE} --no-compare --cpu-devices 4 --mesh fsdp=2,model=2 {place}"
    arguments += f" --steps 100000 --save-every 2 --checkpoint-dir {folder}"
    processes = [start(*arguments.split(), "--process-id", str(i)) for i in range(4)]
    try:
        # The second save has begun.
        while not (folder / "2").exists() or not unfinished(folder):
            assert {p.poll() for p in processes} == {None}
            time.sleep(0.001)
        processes[2].kill()
        killed = time.monotonic()
        said = [p.communicate(timeout=60)[1] for p in processes]
        assert time.monotonic() - killed < 60
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes[2] == -signal.SIGKILL
    assert 0 not in codes
    assert LOST in codes
    told = next(text for text, code in zip(said, codes, strict=True) if code == LOST)
    assert "of 4 lost another one, and stopped; start all of them again with" in told
    last = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    more = f"{CASE} --steps {last + 3}"
    found, bits = trained(f"{more} --mesh data=2 --resume --checkpoint-dir {folder}")
    assert len(found.losses) == 3
    assert not unfinished(folder)
    assert bits == trained(f"{more} --mesh data=1")[1]


@pytest.mark.parametrize(
    "end, text, status",
    [
        (
            "os.kill(os.getpid(), 9)",
            "process 1 of 2 was ended by SIGKILL; the others were stopped",
            1,
        ),
        (
            "print('no disk'); sys.exit(7)",
            "process 1 of 2 ended with status 7; the others were stopped\nno disk",
            7,
        ),
    ],
)
def test_a_spawned_process_takes_the_others_along(tmp_path, end, text, status):
    script = Path(tmp_path, "script.py")
    lines = [
        "import os, sys, time",
        "if sys.argv[sys.argv.index('--process-id') + 1] == '1':",
        f"    {end}",
        "time.sleep(600)",
    ]
    script.write_text("\n".join(lines))
    failure = spawn(script, [], 2)
    assert (str(failure), failure.status) == (text, status)
