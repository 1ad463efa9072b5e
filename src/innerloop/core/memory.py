"""Memory: how much a piece of code needs at once, how much there is, and how a lack of it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig

#: The share of what is available that a training step may take. A process needs more than what is allocated
#: at once: between blocks of many sizes, glibc's heap came to hold 1.3 to 1.9 times as much.
SHARE = 0.5

_CGROUPS = Path("/sys/fs/cgroup")
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


def peak(fn: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes that torch's allocator handed out at once while `fn` ran, beyond what was in use before.

    Exact on a CPU, where every allocation is seen but those of other threads; call it with code that
    runs on this one. On CUDA it is the allocator's own figure.

    >>> def two_of_three_at_once():
    ...     a = torch.ones(1000)
    ...     b = a + 1
    ...     del a
    ...     return b * 2
    >>> round(peak(two_of_three_at_once), -2)  # and a few bytes of the numbers 1 and 2
    8000
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        fn()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return max(map(_highest, _allocations(fn)), default=0)


def available(device: torch.device | str = "cpu") -> int:
    """Bytes that may still be allocated: in the machine, or in the group of processes that this is one of."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = psutil.virtual_memory().available
    return min([left, *_left_in_groups()])


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU torch has no class of its own for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MESSAGES)


def human(size: float) -> str:
    """
    >>> human(1234567), human(12_345_678_901)
    ('1.2 MB', '12.3 GB')
    """
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return f"{size / unit:.1f} {name}"


def _allocations(fn: Callable[[], object]) -> list[list[int]]:
    """What was allocated (positive) and freed (negative), in order, for each thread that was followed."""
    # The recorder below torch.profiler: the same events, without a trace to write and to read.
    memory = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    _enable_profiler_legacy(memory)
    try:
        kept = fn()
    finally:
        events = _disable_profiler_legacy()
    del kept
    return [[e.cpu_memory_usage() for e in thread if e.kind() == "memory_alloc"] for thread in events]


def _highest(changes: list[int]) -> int:
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest


def _left_in_groups() -> list[int]:
    """What the control groups of this process leave, of either version, where they set a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, place in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):
            for folder in {_CGROUPS / controllers / place.lstrip("/"), _CGROUPS / controllers}:
                found += _left(folder)
    return found


def _left(folder: Path) -> list[int]:
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            bound, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        except (OSError, ValueError):
            continue
        if bound.isdigit():
            return [max(0, int(bound) - used)]
    return []
