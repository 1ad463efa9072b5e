"""Second-order meta-steps of innerloop and its peers, side by side: `python benchmarks/engine.py --help`.

learn2learn and torchmeta do not install on the Pythons that innerloop runs on, so they cannot be timed here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import contenders
import machine
import memory
import tables
import torch
from contenders import LIMIT, OURS, PEERS, Contender, Kind, Skipped, Step
from timing import Spread, ratios, round_robin
from works import Problem, Work, all_works

from innerloop.core.errors import ContractError, unknown

# In float64 every exact gradient agrees to rounding. In float32 it need not: a ReLU whose input is nearly
# zero may open in one kernel and not in another, which is no mistake, and moves the gradient by a percent.
TOLERANCE64, TOLERANCE32 = 1e-6, 5e-2


@dataclass
class Result:
    """A contender on one work.

    Attributes:
        status: `ok`; `differs` (another gradient: timed, not ranked); `skipped` or `failed`, with a reason.
        off64, off32: relative difference of its gradient from a plain loop's in float64, when it computes
            in float64 (two of the tasks) and in float32 (all, as timed).
        first_s: seconds to prepare and run it once, compilation included.
        ms: every timing.
    """

    name: str
    kind: Kind
    status: str = "ok"
    reason: str = ""
    off64: float | None = None
    off32: float | None = None
    first_s: float = 0.0
    ms: list[float] = field(default_factory=list)


def main(argv: list[str] | None = None) -> None:
    args = _options().parse_args(argv)
    entries = [
        (work, [*_picked(OURS, args.ours, work), *_picked(PEERS, args.peers, work)]) for work in _chosen(args)
    ]
    found = machine.begin(args) | {"works": []}
    for work, entrants in entries:
        judge = {"memory": _memory, "cores": _cores}.get(work.family, _compared)
        found["works"].append({"name": work.name} | judge(work, entrants, args))
        machine.write_json(args.json, found)  # after each work: an interrupted run keeps what it measured
    wrong = [text for work in found["works"] for text in _wrong(work)]
    if wrong:
        raise ContractError("; ".join(wrong), expected="the exact meta-gradient", do="read the table above")


def _wrong(work: dict[str, Any]) -> list[str]:
    """What of ours failed or computed another gradient."""
    ours = [result for result in work.get("contenders", []) if result["kind"] == "ours"]
    return [
        f"{r['name']} {r['status']} on {work['name']}" for r in ours if r["status"] in ("failed", "differs")
    ]


def _options() -> argparse.ArgumentParser:
    options = machine.parser("Time second-order meta-steps of innerloop and its peers, side by side.")
    families = list(dict.fromkeys(work.family for work in all_works().values()))
    options.add_argument(
        "--works",
        default=",".join(families),
        metavar="A,B",
        help=f"families ({', '.join(families)}) or names",
    )
    for option, pool in (("--ours", OURS), ("--peers", PEERS)):
        names = ", ".join(entrant.name for entrant in pool)
        options.add_argument(option, metavar="A,B", help=f"{names}; if left out, those that suit the work")
    return options


def _chosen(args: argparse.Namespace) -> list[Work]:
    works = all_works(quick=args.quick)
    asked, families = args.works.split(","), {work.family for work in works.values()}
    for name in asked:
        if name not in {*works, *families}:
            raise unknown("work", name, families)
    return [work for work in works.values() if {work.name, work.family} & set(asked)]


def _picked(pool: list[Contender], asked: str | None, work: Work) -> list[Contender]:
    """The contenders of a pool that were named; without names, those that suit the work."""
    if asked is None:
        return [entrant for entrant in pool if entrant.unasked is None or work.family in entrant.unasked]
    known = {entrant.name: entrant for entrant in pool}
    for name in asked.split(","):
        if name not in known:
            raise unknown("contender", name, known)
    return [known[name] for name in asked.split(",")]


# --- the three ways to judge a work -----------------------------------------------------------------------


def _compared(work: Work, entrants: list[Contender], args: argparse.Namespace) -> dict[str, Any]:
    """The same gradient? Then times, and ratios to the fastest peer and to the limit."""
    check = Check.of(work, args.device)
    steps: dict[str, Step] = {}
    results = []
    for entrant in [*entrants, LIMIT]:
        result, step = checked(entrant, check)
        results.append(result)
        if step:
            steps[entrant.name] = step
    timed = round_robin(steps, args.rounds, device=args.device)
    for result in results:
        result.ms = timed.get(result.name, [])
    kinds: tuple[Kind, ...] = ("torch", "jax", "limit")
    best: dict[Kind, Result | None] = {kind: fastest(results, kind) for kind in kinds}
    _show(work, results, best)
    ours = [result for result in results if result.kind == "ours" and result.ms]
    compared = {
        result.name: {k: asdict(ratios(b.ms, result.ms)) | {"to": b.name} for k, b in best.items() if b}
        for result in ours
    }
    return {"contenders": [asdict(result) for result in results], "speedups": compared}


@dataclass(frozen=True)
class Check:
    """A problem as it is timed, a smaller one in float64, and the gradient that each should give."""

    timed: Problem
    exact: Problem
    expected: Mapping[str, Any]
    expected_exact: Mapping[str, Any]

    @classmethod
    def of(cls, work: Work, device: str = "cpu") -> Check:
        exact = Problem(replace(work, tasks=min(2, work.tasks)), device, torch.float64)
        whole = Problem(work, device, torch.float64)
        return cls(Problem(work, device), exact, contenders.loop(whole)(), contenders.loop(exact)())


def checked(entrant: Contender, check: Check) -> tuple[Result, Step | None]:
    """Prepare a contender, run it once and compare its gradient with the reference."""
    result = Result(entrant.name, entrant.kind)
    try:
        start = time.perf_counter()
        step = entrant.prepare(check.timed)
        gradient = step()
        result.first_s = round(time.perf_counter() - start, 3)
        if entrant.kind != "limit":
            result.off32 = difference(gradient, check.expected)
            result.off64 = difference(entrant.prepare(check.exact)(), check.expected_exact)
            if not (result.off32 <= TOLERANCE32 and result.off64 <= TOLERANCE64):
                result.status = "differs"
    except Skipped as skipped:
        result.status, result.reason = "skipped", str(skipped)
        return result, None
    except Exception as error:  # a peer may fail in any way: the table says so, and the others go on
        first = next(iter(str(error).strip().splitlines()), "")
        result.status, result.reason = "failed", f"{type(error).__name__}: {first}"
        return result, None
    return result, step


def difference(gradient: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """Relative Euclidean distance of two gradients, over all parameters of the reference."""

    def flat(values: Mapping[str, Any]) -> torch.Tensor:
        parts = [torch.as_tensor(values[name]).detach().cpu().double().flatten() for name in reference]
        return torch.cat(parts)

    expected = flat(reference)
    return float((flat(gradient) - expected).norm() / expected.norm())


def fastest(results: list[Result], kind: Kind) -> Result | None:
    """The fastest contender of a kind whose gradient is right."""
    ranked = [result for result in results if result.kind == kind and result.status == "ok" and result.ms]
    return min(ranked, key=lambda result: Spread.of(result.ms).median, default=None)


def _cores(work: Work, entrants: list[Contender], args: argparse.Namespace) -> dict[str, Any]:
    """Innerloop with its default settings, on one thread and on all that it may use."""
    step = OURS[0].prepare(Problem(work, args.device))
    threads = {f"{n} thread{'s' * (n > 1)}": n for n in sorted({1, args.threads})}
    calls: dict[str, Callable[[], Any]] = dict.fromkeys(threads, step)
    ms = round_robin(calls, args.rounds, before=lambda name: torch.set_num_threads(threads[name]))
    torch.set_num_threads(args.threads)
    one, most = next(iter(ms)), next(reversed(ms))
    speedup = ratios(ms[one], ms[most])
    rows = [
        [name, Spread.of(figures).text(), ratios(ms[one], figures).text()] for name, figures in ms.items()
    ]
    tables.show(work.name, [OURS[0].name, "ms", f"times as fast as {one}"], rows)
    return {"ms": ms, "speedup": asdict(speedup)}


def _memory(work: Work, entrants: list[Contender], args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of each contender, in a process of its own."""
    if args.device == "cuda":
        entrants = [entrant for entrant in entrants if entrant.kind != "jax"]  # it reserves the whole device
    found = memory.measured(work.name, [entrant.name for entrant in entrants], args)
    kinds = {entrant.name: entrant.kind for entrant in entrants}
    peers = [m["mb"] for name, m in found.items() if "mb" in m and kinds[name] == "torch"]
    least = min(peers, default=0.0)
    rows = [
        [name, f"{m['mb']:.0f}", f"{m['seconds']:.2f}", f"{m['mb'] / least:.3f}" if least else ""]
        for name, m in found.items()
        if "mb" in m
    ]
    notes = [f"{name}: {m['status']}, {m['reason']}" for name, m in found.items() if "mb" not in m]
    tables.show(work.name, ["", "peak MB", "s, first step", "of the thriftiest peer"], rows, notes)
    return {"memory": found}


# --- what is printed --------------------------------------------------------------------------------------


def _show(work: Work, results: list[Result], best: dict[Kind, Result | None]) -> None:
    peer, limit = best["torch"], best["limit"]
    most = max(len(result.ms) for result in results)
    rows, notes = [], []
    for result in results:
        if not result.ms:
            notes.append(f"{result.name}: {result.status}, {result.reason}")
            continue
        few = f" n={len(result.ms)}" if len(result.ms) < most else ""
        speed = ratios(peer.ms, result.ms).text() if peer else ""
        of_limit = ratios(result.ms, limit.ms).text() if limit else ""
        off = ["" if off is None else f"{off:.0e}" for off in (result.off64, result.off32)]
        rows.append([result.name, Spread.of(result.ms).text() + few, speed, of_limit, *off])
        if result.status == "differs":
            rows[-1][0] += " *"
            notes.append(f"* {result.name} computes another gradient: timed, not ranked")
        elif result.first_s > 5:
            notes.append(f"{result.name}: {result.first_s:.0f} s until the first step was done")
    peer_name = f"times as fast as {peer.name}" if peer else "no peer to compare with"
    columns = ["", "ms", peer_name, "times the limit", "float64 off by", "float32"]
    tables.show(work.name, columns, rows, notes)


if __name__ == "__main__":
    machine.entry(main)
