"""The machine: how many cores a benchmark may use, how fast they multiply, and what both commands ask for."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tables import say

from innerloop.core.errors import ConfigError, InnerloopError

PACKAGES = ("innerloop", "torch", "higher", "torchopt", "jax")


def parser(description: str) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--rounds", type=int, default=20, metavar="N", help="timings of each contender")
    found.add_argument(
        "--threads", type=int, default=min(2, len(_cores())), metavar="N", help="CPU cores for each contender"
    )
    found.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    found.add_argument("--json", type=Path, metavar="FILE", help="where to write every timing")
    found.add_argument("--quick", action="store_true", help="tiny shapes: shows that it runs")
    return found


def prepare(args: argparse.Namespace) -> None:
    """Check the common options and confine this process, and what it starts, to `--threads` cores."""
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}", expected="at least 1", do="raise it")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda", expected="a CUDA device that torch sees", do="use --device cpu")
    if args.json and not args.json.parent.is_dir():
        raise ConfigError(f"--json {args.json}", expected="a file in a folder that exists", do="create it")
    cores = _cores()
    if args.threads > len(cores):
        raise ConfigError(
            f"--threads {args.threads}", expected=f"at most {len(cores)}, the cores here", do="lower it"
        )
    if hasattr(os, "sched_setaffinity"):  # JAX takes every core that it sees
        os.sched_setaffinity(0, cores[: args.threads])
    torch.set_num_threads(args.threads)
    # Float32 as it is written, for all alike: by default, convolutions on CUDA round to TF32.
    torch.backends.cudnn.allow_tf32 = False


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare, describe the machine on the terminal, and start the record of this benchmark."""
    prepare(args)
    found = describe(args)
    rates = ", ".join(f"{rate} GFLOP/s on {name}" for name, rate in found["matmul_gflops"].items())
    say(f"torch {found['packages']['torch']}, {found['threads']} threads; matrix products: {rates}")
    if args.quick:
        say("--quick: tiny shapes, the figures mean nothing")
    return {"machine": found, "quick": args.quick, "rounds": args.rounds}


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    size = 256 if args.quick else 1024
    rates = {f"{n} thread{'s' * (n > 1)}": matmul_rate(n, size) for n in sorted({1, args.threads})}
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
        "threads": args.threads,
        "matmul_gflops": rates,
        "device": args.device,
    }
    if args.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        rates["cuda"] = matmul_rate(args.threads, 8 * size, "cuda")
    return found


def matmul_rate(threads: int, size: int, device: str = "cpu") -> float:
    """Billions of float32 operations a second in a square matrix product: the best of ten."""
    torch.set_num_threads(threads)
    a, best = torch.randn(size, size, device=device), float("inf")
    for _ in range(10):
        synchronise(device)
        start = time.perf_counter()
        torch.mm(a, a)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return round(2 * size**3 / best / 1e9, 1)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def write_json(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def entry(main: Callable[[], None]) -> None:
    """Run a command: an error that the user can mend is told in three lines, with exit code 2."""
    try:
        main()
    except InnerloopError as error:
        Console(stderr=True).print(f"error\n{error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
