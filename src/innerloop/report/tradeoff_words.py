"""What a search for a trade-off found, in words and rows, for the terminal and the page."""

from __future__ import annotations

from typing import Any

from innerloop.report.markup import number

#: What `front.json` holds, or a part of it.
Told = dict[str, Any]


def summary(told: Told) -> str:
    """What was found, in a sentence or two."""
    fresh = told["fresh_seeds"]
    kind, note = ("fresh seed", "") if fresh else ("seed", ", not confirmed on others")
    seeds = _counted(len(fresh or told["seeds"]), kind)
    text = f"{_counted(told['trials'], 'trial')}; what is shown is of {seeds}{note}."
    bend = next((point for point in told["reported"]["points"] if point["knee"]), None)
    if bend is None:
        return f"{text} There is no knee: no point lies above the line from naive to frozen training."
    stable, plastic = (_share(told, name, bend[name]["value"]) for name in ("stability", "plasticity"))
    name = f"trial {bend['name']}" if "trial" in bend else f"{bend['name']} training"
    return f"{text} The knee of the front is {name}, with {stable} and {plastic}."


def reading(told: Told) -> list[str]:
    """How to read the axes and columns."""
    axes = told["reported"]["axes"]
    return [
        _axis("Stability S", "1 - forgetting / naive forgetting", "minus forgetting", axes["stability"]),
        _axis("Plasticity P", "(new - frozen) / (joint - frozen)", "the score itself", axes["plasticity"]),
        "New: the score of new families right after their stage. Lost and dip: the fall of old families, at "
        "the end and at the worst moment after a switch.",
        "Cost: passes through tasks' data; naive training is 1. Price: plasticity for a unit of stability, "
        "on to the next more stable point.",
        "For sure: better than each other point in one of the two, beyond the noise of seeds. Possibly: "
        "seeds cannot tell. Knee: farthest above the line from naive to frozen.",
        *_few(told["fresh_seeds"] or told["seeds"]),
    ]


def rest(told: Told) -> list[str]:
    """What the table leaves out, and why."""
    found = []
    beside = [p for p in told["search"]["points"] if p["standing"] == "possible" and not p["on_front"]]
    names = [point["name"] for point in beside if "trial" in point]
    if names:
        found.append(f"not to be told from the front by so many seeds: trials {', '.join(names)}")
    unfit = {
        p["name"]: p for p in (*told["search"]["points"], *told["reported"]["points"]) if p.get("errors")
    }
    for point in unfit.values():
        if point:
            found.append(
                f"unfit: trial {point['name']}, errors of the doctor's: {', '.join(point['errors'])}"
            )
    for one in told["failed"]:
        found.append(f"failed: trial {one['trial']} ({options(one['settings'])}): {one['reason']}")
    if told["running_elsewhere"]:
        found.append(
            f"trials that go on in other processes: {told['running_elsewhere']}; run the command again"
        )
    return found


def shown(told: Told) -> list[Told]:
    """Anchors and the front; of points that were run again, all."""
    everything = bool(told["fresh_seeds"])
    points = told["reported"]["points"]
    return [p for p in points if everything or p["on_front"] or "trial" not in p]


def options(settings: dict[str, Any]) -> str:
    """Settings as options of `innerloop train`.

    >>> options({"retain.project": True, "tasks_per_step": 8})
    '--retain.project true --tasks-per-step 8'
    """
    values = {name: str(v).lower() if isinstance(v, bool) else v for name, v in settings.items()}
    return (
        " ".join(f"--{n if '.' in n else n.replace('_', '-')} {v}" for n, v in values.items()) or "as given"
    )


def interval(found: Told) -> str:
    """A number with the ends of its interval, where it has any."""
    if found["low"] is None or found["high"] is None:
        return plain(found["value"])
    return f"{plain(found['value'])} [{plain(found['low'])}, {plain(found['high'])}]"


def plain(value: float | None) -> str:
    """A number with two decimals.

    >>> plain(-0.001), plain(None)
    ('0.00', '-')
    """
    if value is None:
        return "-"
    return f"{round(value, 2) + 0.0:.2f}" if abs(value) < 1e4 else f"{value:.1e}"


def notes(point: Told) -> str:
    """What is to be said of a point beside its numbers."""
    if point["standing"] == "reference":
        return "a reference: it sees all families at once"
    if point["standing"] == "unfit":
        return "unfit, so that it is not compared"
    if not point["on_front"]:
        return "beaten for sure" if point["standing"] == "dominated" else "beaten, not for sure"
    sure = "for sure" if point["standing"] == "optimal" else "possibly"
    return f"knee, {sure}" if point["knee"] else sure


def _counted(count: int, kind: str) -> str:
    return f"{count} {kind}" if count == 1 else f"{count} {kind}s"


def _few(seeds: list[int]) -> list[str]:
    if len(seeds) > 2:
        return []
    if len(seeds) == 1:
        return ["One seed has no interval, and can tell nothing for sure."]
    return ["Two seeds: an interval is 12.7 standard errors to either side, where three seeds have 4.3."]


def _axis(name: str, share: str, raw: str, axis: Told) -> str:
    if axis["undefined"]:
        return f"{name}: {raw}. As a share it is undefined because {axis['undefined']}"
    unit = axis.get("naive_forgetting") or axis["joint_over_frozen"]
    return f"{name} = {share}; the whole is {interval(unit)} of the score."


def _share(told: Told, name: str, value: float) -> str:
    if told["reported"]["axes"][name]["undefined"]:
        return f"{name} {plain(value)} in units of the score"
    if name == "stability":
        return f"{number(value, percent=True)} of naive forgetting avoided"
    return f"{number(value, percent=True)} of the gain of joint training on new families"


HEAD = ("point", "stability S", "plasticity P", "new", "lost", "dip", "cost", "price", "standing")


def cells(point: Told) -> list[str]:
    """A row of the table, under `HEAD`."""
    cost = point.get("cost", 1.0 if point["name"] != "frozen" else None)
    places = [interval(point[name]) for name in ("stability", "plasticity")]
    scores = [plain(point[name]) for name in ("gain", "forgetting", "dip")]
    return [point["name"], *places, *scores, plain(cost), plain(point["price"]), notes(point)]


def front(told: Told) -> list[Told]:
    """The trials on the front."""
    return [point for point in told["reported"]["points"] if point["on_front"] and "trial" in point]
