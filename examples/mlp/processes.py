"""Several processes: how they find one another, and how they end together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import jax

# Seconds until all have come, until a silent one is given up, until all are done.
ARRIVAL, SILENCE, FAREWELL = 60, 10, 20
# The exit status of a process that stops because it lost another one.
LOST = 3
PARENT = "TRAIN_MLP_ENDS_WITH_ITS_PARENT"
# JAX tells a lost connection by errors of many types, all with a code in front.
CODES = "UNKNOWN", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED"


class Stop(Exception):
    """The end of a run that went wrong, told in one line."""

    def __init__(self, text, status=1):
        super().__init__(text)
        self.status = status


def lead():
    """Whether this process is the one that prints."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def say(text):
    if lead():
        print(text, flush=True)


def make_cpu_devices(n):
    """Makes the CPU look like several devices; a GPU or TPU machine does not notice."""
    # JAX may have started already, in a notebook or a test: its devices are used then.
    with contextlib.suppress(RuntimeError):
        if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            jax.config.update("jax_num_cpu_devices", n)


def join(options):
    """Makes this process one of several, if it is."""
    if os.environ.pop(PARENT, None):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if not options.coordinator:
        return make_cpu_devices(options.cpu_devices)
    # JAX's own way to give up is an abort that names nothing.
    patience = threading.Timer(ARRIVAL, _give_up, [options.coordinator])
    patience.daemon = True
    patience.start()
    limits: Any = {
        "initialization_timeout": 2 * ARRIVAL,
        "heartbeat_timeout_seconds": SILENCE,
        "shutdown_timeout_seconds": FAREWELL,
    }
    try:
        if options.coordinator == "auto":
            return jax.distributed.initialize(**limits)
        make_cpu_devices(options.cpu_devices // options.num_processes)
        jax.distributed.initialize(
            options.coordinator, options.num_processes, options.process_id, **limits
        )
    except (RuntimeError, ValueError) as e:
        raise Stop(
            f"argument --coordinator: no processes could join at "
            f"{options.coordinator!r}: {first_line(e)}"
        ) from e
    finally:
        patience.cancel()


def _give_up(address):
    print(
        f"train_mlp.py: argument --coordinator: not all processes came to {address!r} "
        f"in {ARRIVAL} seconds",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def first_line(error):
    return textwrap.shorten(str(error).strip().partition("\n")[0], 160)


def is_lost(error):
    """Whether an error says that another process is gone or does not answer."""
    told = isinstance(error, jax.errors.JaxRuntimeError) or str(error).startswith(CODES)
    return told and jax.distributed.is_initialized()


@contextlib.contextmanager
def ending_together():
    """Turns what goes wrong into one line, and lets no process wait for one that ended.

    Leaving in the ordinary way waits for all others, so that a process that fails where
    others may not have leaves at once; the others then lose it, and leave too.
    """
    try:
        yield
    except Stop as stop:
        if lead():
            print(f"train_mlp.py: {stop}", file=sys.stderr)
        # Every process has come here alike.
        raise SystemExit(stop.status) from None
    except Exception as e:
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        if lost := is_lost(e):
            print(
                f"train_mlp.py: process {jax.process_index()} of {jax.process_count()} "
                "lost another one, and stopped; start all of them again with --resume: "
                f"{first_line(e)}",
                file=sys.stderr,
            )
        else:
            sys.excepthook(type(e), e, e.__traceback__)
        sys.stderr.flush()
        os._exit(LOST if lost else 1)


def spawn(entry, argv, count):
    """Runs ``count`` local processes; all end if one fails, or if this one does."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    flags = [f"-W{option}" for option in sys.warnoptions]
    # Processes on one machine would each take all of its GPUs.
    env = {"JAX_PLATFORMS": "cpu", **os.environ, PARENT: "yes"}
    children = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for i in range(count):
                place = ["--coordinator", address, "--num-processes", str(count)]
                place += ["--process-id", str(i), "--spawn", "1"]
                # The first one speaks for all; of the others it counts how they end.
                with Path(folder, str(i)).open("w") as log:
                    child = subprocess.Popen(
                        [sys.executable, *flags, entry, *argv, *place],
                        env=env,
                        stdin=subprocess.PIPE,
                        stdout=None if i == 0 else log,
                        stderr=None if i == 0 else log,
                    )
                children.append(child)
            failed = _first_failure(children)
        finally:
            for child in children:
                child.kill()
                child.communicate()
        if failed is not None:
            said = Path(folder, str(failed)).read_text().strip()
            return _describe(failed, children[failed].returncode, count, said)
    return None


def _first_failure(children):
    """Which child failed first, or None once all have ended well."""
    while True:
        codes = [child.poll() for child in children]
        if failed := [i for i, code in enumerate(codes) if code]:
            # Not one that ended because another did.
            return min(failed, key=lambda i: (codes[i] == LOST, i))
        if None not in codes:
            return None
        time.sleep(0.05)


def _describe(process, code, count, said):
    if code < 0:
        end = f"was ended by {signal.Signals(-code).name}"
    else:
        end = f"ended with status {code}"
    text = f"process {process} of {count} {end}; the others were stopped"
    return Stop(f"{text}\n{said}" if said else text, max(code, 1))


def _end_with_parent():
    """A parent that is gone, even killed, has closed its end of the pipe."""
    sys.stdin.read()
    os._exit(1)
