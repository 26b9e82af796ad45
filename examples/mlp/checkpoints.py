"""Saving a run with Orbax, and taking it up again."""

import contextlib
from pathlib import Path

import jax

from mlp.meshes import fetch
from mlp.processes import Stop, first_line, is_lost, say
from mlp.report import sha256

KIND = "flax_stable/examples/train_mlp.py"
# What a run cannot change half-way; its mesh, processes and length it can.
FIXED = "api", "mlp", "activation", "dtype", "batch_size", "seed", "reproducible"
KEPT = 3  # the newest ones


@contextlib.contextmanager
def opened(options):
    """Orbax's manager of ``--checkpoint-dir``, or None without one."""
    if not options.checkpoint_dir:
        yield None
        return
    import orbax.checkpoint as ocp

    folder = options.checkpoint_dir.absolute()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise Stop(f"argument --checkpoint-dir: {folder} is no folder", 2)
    if names and not options.resume:
        raise Stop(
            f"argument --checkpoint-dir: {folder} is not empty; take its run up with "
            "--resume, or name another folder",
            2,
        )
    # A save that was interrupted is a folder "7.orbax-checkpoint-tmp" and counts for
    # nothing; whole ones have a number for a name.
    strange = [
        n for n in names if not n.partition(".orbax-checkpoint-tmp")[0].isdecimal()
    ]
    if strange:
        raise Stop(
            f"argument --checkpoint-dir: {folder} holds {sorted(strange)[0]!r}, which "
            "is no checkpoint of this program; name another folder",
            2,
        )
    manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=KEPT,
            cleanup_tmp_directories=True,
            # A step is not over before its checkpoint is on the disk.
            enable_async_checkpointing=False,
            save_root_metadata=False,
        ),
    )
    try:
        yield manager
    finally:
        manager.close()


def save(manager, step, state, loss, options):
    """Saves parameters, optimizer and where the run stands, all or nothing."""
    if manager is None or manager.latest_step() == step:
        return
    import orbax.checkpoint as ocp

    params, optimizer = state
    run = {"kind": KIND, "step": step, "loss": loss, **fixed(options)}
    run["sha256"] = sha256(fetch(state))
    manager.save(
        step,
        args=ocp.args.Composite(
            run=ocp.args.JsonSave(run),
            state=ocp.args.StandardSave({"params": params, "optimizer": optimizer}),
        ),
        force=True,
    )
    manager.wait_until_finished()


def resume(manager, state, options):
    """The state to go on from, the steps it has seen, and the loss of the last one."""
    if manager is None or not options.resume:
        return state, 0, float("nan")
    step = manager.latest_step()
    if step is None:
        say(f"no checkpoint in {manager.directory}: training starts anew\n")
        return state, 0, float("nan")
    import orbax.checkpoint as ocp

    path = Path(manager.directory) / str(step)
    run = read(manager, path, step, run=ocp.args.JsonRestore())["run"]
    if not isinstance(run, dict) or run.get("kind") != KIND:
        raise Stop(f"{path} is no checkpoint of this program; it was left as it is")
    for name, value in fixed(options).items():
        if run[name] != value:
            raise Stop(
                f"argument --{name.replace('_', '-')}: {path} was trained with "
                f"{run[name]}, but got {value}; use {run[name]}, or another folder",
                2,
            )
    if step > options.steps:
        raise Stop(
            f"argument --steps: {path} has {step} steps already, but got "
            f"{options.steps}; name more, or another folder",
            2,
        )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        dict(zip(("params", "optimizer"), state, strict=True)),
    )
    found = read(manager, path, step, state=ocp.args.StandardRestore(shapes))["state"]
    state = found["params"], found["optimizer"]
    if sha256(fetch(state)) != run.get("sha256"):
        raise Stop(
            f"{path} does not hold the arrays that were saved, by their SHA-256, and "
            "was left as it is; move it away to go on from an older one"
        )
    say(f"going on from {path}, after {step} steps\n")
    return state, step, run["loss"]


def read(manager, path, step, **args):
    import orbax.checkpoint as ocp

    try:
        return manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as e:
        if is_lost(e):
            raise
        raise Stop(
            f"{path} cannot be read as a checkpoint of this program, and was left as "
            f"it is; move it away to go on from an older one: {first_line(e)}"
        ) from e


def fixed(options):
    values = {name: getattr(options, name) for name in FIXED}
    return values | ({"groups": options.groups} if options.reproducible else {})


def last_good(manager):
    """Where to go on from after a failure."""
    step = manager.latest_step() if manager else None
    if step is None:
        return "There is no checkpoint to go on from: --checkpoint-dir saves them."
    return f"The last good checkpoint is {Path(manager.directory) / str(step)}."
