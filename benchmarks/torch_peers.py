"""PyTorch's functions as contenders, eager and compiled."""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from contenders import optional
from timing import Run

FUNCTIONS: dict[str, Callable[[Any], Callable]] = {
    "sigmoid": lambda F: F.sigmoid,
    "log_sigmoid": lambda F: F.logsigmoid,
    "tanh": lambda F: F.tanh,
    "softplus": lambda F: F.softplus,
    "relu": lambda F: F.relu,
    "relu6": lambda F: F.relu6,
    "leaky_relu": lambda F: F.leaky_relu,
    "hard_tanh": lambda F: F.hardtanh,
    "hard_sigmoid": lambda F: F.hardsigmoid,
    "hard_silu": lambda F: F.hardswish,
    "elu": lambda F: F.elu,
    "celu": lambda F: F.celu,
    "selu": lambda F: F.selu,
    "silu": lambda F: F.silu,
    "mish": lambda F: F.mish,
    "soft_sign": lambda F: F.softsign,
    "gelu": lambda F: partial(F.gelu, approximate="tanh"),
    "gelu(approximate=False)": lambda F: F.gelu,
    "softmax": lambda F: partial(F.softmax, dim=-1),
    "log_softmax": lambda F: partial(F.log_softmax, dim=-1),
    "glu": lambda F: F.glu,
    "swiglu": lambda F: lambda value, gate: value * F.silu(gate),
    "geglu": lambda F: lambda value, gate: value * F.gelu(gate, approximate="tanh"),
    "reglu": lambda F: lambda value, gate: value * F.relu(gate),
}


def load() -> Any:
    """PyTorch on as many threads as JAX has, or None."""
    torch = optional("torch")
    if torch and jax.default_backend() == "gpu" and not torch.cuda.is_available():
        print("torch is skipped: it does not see the GPU")
        return None
    return torch


def from_jax(torch: Any, x: jax.Array) -> Any:
    """The same numbers as a tensor, where JAX computes."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    dtype = getattr(torch, x.dtype.name)
    return torch.tensor(np.asarray(x, np.float32)).to(device=device, dtype=dtype)


def repeat(torch: Any, f: Callable, args: list, g: Any) -> Run:
    """Calls of f; with a cotangent g, of f and its gradient."""
    leaves = [x.detach().requires_grad_(g is not None) for x in args]

    def run(calls: int) -> None:
        for _ in range(calls):
            if g is None:
                with torch.no_grad():
                    f(*leaves)
            else:
                torch.autograd.grad(f(*leaves), leaves, g)
        if leaves[0].is_cuda:
            torch.cuda.synchronize()

    return run


@functools.lru_cache(maxsize=1)
def compiled(torch: Any, name: str) -> Callable:
    """The compiled function, for all sizes; what was compiled before is forgotten."""
    torch.compiler.reset()
    return torch.compile(FUNCTIONS[name](torch.nn.functional), dynamic=True)


def runs(
    torch: Any,
    name: str,
    args: list[jax.Array],
    g: jax.Array | None,
    peers: Sequence[str],
) -> dict[str, Run]:
    """The contenders for a function: none where PyTorch lacks it."""
    if torch is None or name not in FUNCTIONS:
        return {}
    tensors = [from_jax(torch, x) for x in args]
    cotangent = None if g is None else from_jax(torch, g)
    contenders = {}
    if "torch" in peers:
        contenders["torch"] = FUNCTIONS[name](torch.nn.functional)
    if "torch.compile" in peers:
        contenders["torch.compile"] = compiled(torch, name)
    return {k: repeat(torch, f, tensors, cotangent) for k, f in contenders.items()}


def kept_bytes(torch: Any, name: str, args: list[jax.Array]) -> float | None:
    """Bytes that PyTorch keeps for an element; each storage counts once."""
    if torch is None or name not in FUNCTIONS:
        return None
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tensors = [from_jax(torch, x).requires_grad_() for x in args]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        FUNCTIONS[name](torch.nn.functional)(*tensors)
    return sum(kept.values()) / tensors[0].numel()
