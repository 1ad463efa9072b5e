"""What was allocated at once is what the process grew by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from innerloop.core import memory
from innerloop.core.memory import available, is_allocation_failure, peak

#: Allocates and frees, so that less is held at once than is allocated in all; prints growth and peak.
GROWTH = """
import torch
from innerloop.core.memory import peak
torch.set_num_threads(1)

def held(most):  # not ru_maxrss, which begins with what the parent process had
    name = "VmHWM" if most else "VmRSS"
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

def work(n):
    w = torch.ones(n, n, requires_grad=True)
    x = torch.ones(n, n)
    for _ in range(6):
        x = torch.tanh(x @ w)
    torch.autograd.grad(x.sum(), w)

work(8)
before = held(most=False)
work(1500)
print(held(most=True) - before, peak(lambda: work(1500)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the growth is read from /proc")
def test_the_peak_is_what_the_process_grows_by() -> None:
    """Each block is made a mapping of its own, or the heap's waste would be measured along."""
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "PYTHONPATH": str(Path(__file__).parents[3] / "src"),
    }
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, env=environment, check=True
    )
    grown, found = map(int, done.stdout.split())
    assert found > 6 * 4 * 1500**2
    assert grown == pytest.approx(found, rel=0.1)


def test_the_peak_is_neither_the_sum_nor_what_is_left() -> None:
    """Planted: the sum of all allocations, and what is held at the end, are other numbers."""

    def in_turn() -> torch.Tensor:
        for _ in range(5):
            kept = torch.ones(1000).add_(1)
            del kept
        both = [torch.ones(1000), torch.ones(1000)]
        return both[0]

    changes = memory._allocations(in_turn)
    assert peak(in_turn) == pytest.approx(8000, abs=64)
    total, left = (sum(c for c in thread if c > 0 or keep) for thread in changes for keep in (False, True))
    assert total > 20_000
    assert left == pytest.approx(4000, abs=64)


def test_a_pass_that_fails_leaves_the_recorder_off() -> None:
    def fails() -> None:
        raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        peak(fails)
    assert peak(lambda: torch.ones(1000)) == pytest.approx(4000, abs=64)


def test_what_is_available_is_bounded_by_the_group_of_processes(tmp_path: Path) -> None:
    assert 0 < available() < 2**50
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert memory._left(tmp_path) == [600000]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left(tmp_path) == []
    with mock.patch.object(memory, "_left_in_groups", return_value=[600000]):
        assert available() == 600000


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_what_it_says(error: Exception, expected: bool) -> None:
    assert is_allocation_failure(error) is expected


def test_a_real_lack_of_memory_on_a_cpu_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_allocation_failure(raised.value)
