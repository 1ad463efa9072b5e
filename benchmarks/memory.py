"""Peak memory of one meta-step: each contender in a process of its own, which prints one line of JSON.

The figure is the peak of resident memory during the first meta-step, less what was resident before it. A step
on one small task goes before, since code that is loaded on first use is no memory of the method.
It is the kernel's high-water mark of this very process (`VmHWM`); where there is none, `ru_maxrss`, which
counts what the parent held when it started the child, and is then an upper bound.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured(work: str, contenders: Iterable[str], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each contender: `mb` and `seconds` of its first meta-step, or the `reason` why not."""
    return {name: _in_child(work, name, args) for name in contenders}


def _in_child(work: str, contender: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--work", work, "--contender", contender]
    command += ["--threads", str(args.threads), "--device", args.device] + ["--quick"] * args.quick
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"status": "failed", "reason": "out of memory" if done.returncode == -9 else last}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    import contenders
    from machine import parser, prepare, synchronise
    from rich.console import Console
    from works import Problem, all_works

    options = parser("Peak memory of one contender on one work.")
    options.add_argument("--work", required=True)
    options.add_argument("--contender", required=True)
    args = options.parse_args()
    prepare(args)
    work = all_works(quick=args.quick)[args.work]
    small = replace(work, tasks=1, support=max(1, work.ways), query=max(1, work.ways), inner_steps=1)
    chosen = {c.name: c for c in (*contenders.OURS, *contenders.PEERS)}[args.contender]
    try:
        chosen.prepare(Problem(small, args.device))()
        step = chosen.prepare(Problem(work, args.device))
    except contenders.Skipped as skipped:
        found: dict[str, Any] = {"status": "skipped", "reason": str(skipped)}
    else:
        before = _start(args.device)
        start = time.perf_counter()
        step()
        synchronise(args.device)
        seconds = time.perf_counter() - start
        found = {"status": "ok", "mb": round(_peak(args.device) - before, 1), "seconds": round(seconds, 3)}
    Console(width=10_000).print(json.dumps(found), markup=False, highlight=False, soft_wrap=True)


def _start(device: str) -> float:
    """Forget earlier peaks where that can be done; what is held now, in MB."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not RESET.exists():
        return _peak(device)
    RESET.write_text("5")  # the high-water mark starts again from what is resident
    return _status("VmRSS")


def _peak(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    if STATUS.exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _status(field: str) -> float:
    """A field of the kernel's account of this process, in MB."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 2**10


if __name__ == "__main__":
    main()
