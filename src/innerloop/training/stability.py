"""What a run's adaptation can bear: its records under every perturbation, and beside other seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from innerloop.core.errors import ConfigError, InnerloopError
from innerloop.diagnose.finding import NotEvaluated
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.measure.dynamics import reason
from innerloop.measure.perturb.inner import safety_factor
from innerloop.measure.perturb.subject import Subject
from innerloop.measure.perturbations import Stability, chosen_perturbations, first_block, fits
from innerloop.tasks.base import TaskSource
from innerloop.training.experiment import build_tasks

if TYPE_CHECKING:
    from innerloop.training.run import Run

SEED = "seed"
LEAST = 10  # tasks that an interval needs

Records = dict[str, Any]


def stability(
    run: Run,
    chosen: FixedEpisodes,
    *,
    others: Sequence[Run] = (),
    unfamiliar: Mapping[str, TaskSource] | None = None,
    only: Sequence[str] = (),
    tell: Callable[[str], None] = lambda name: None,
) -> Records:
    """Judge a run on fixed tasks, as they are and under each perturbation, for `diagnose.effects` to read.

    Args:
        chosen: which tasks, at least 10.
        others: runs that differ in nothing but their seed, judged on the same tasks.
        unfamiliar: sources of tasks that it was not trained on, by what they are to be called.
        only: names of perturbations; none is all of them.
        tell: is told the name of each before it is measured.

    Returns:
        `setup` (facts), `undisturbed` (score, loss and trivial score of each task), `rows` (see
        `measure.perturbations`) and `skipped` (name and reason of what does not apply).

    Raises:
        ConfigError: a name that is none, too few tasks, other runs of other settings, tasks that do not fit.
    """
    if chosen.episodes < LEAST:
        raise ConfigError(
            f"episodes = {chosen.episodes}", expected=f"at least {LEAST}", do="ask for more fixed tasks"
        )
    named = [name for name in only if name != SEED]
    wanted = chosen_perturbations(named) if named or not only else []
    _need_same_settings(run, others)
    subject = _subject(run, chosen, unfamiliar or {})
    measured = Stability(subject, chosen, axis=run.config.train.tasks_axis)
    undisturbed = measured.undisturbed()
    rows, skipped = measured.rows(wanted, tell)
    if not only or SEED in only:
        found = [_of_seed(other, chosen) for other in others]
        rows += found
        skipped += [] if found else [{"name": SEED, "reason": "one run: give the folders of other seeds too"}]
    setup, why = _setup(run, subject, chosen)
    return {"setup": setup, "undisturbed": undisturbed, "rows": rows, "skipped": skipped + why}


def unfamiliar_tasks(run: Run, settings: Mapping[str, Any]) -> tuple[str, TaskSource]:
    """Another source for a run, and what it is called: by its name with settings, sized as the run's tasks.

    Args:
        settings: `name` of the source, and its arguments; what is not given is as the run's tasks have it,
            where the source is of the same name.

    Raises:
        ConfigError: no such source or argument.
    """
    own = dict(run.config.tasks) if run.config.tasks.get("name") == settings["name"] else {}
    try:
        source = build_tasks(own | dict(settings))
    except ConfigError as error:
        got, do = (text.replace("tasks.", "ood.") for text in (error.got, error.do))
        raise ConfigError(got, expected=error.expected, do=do) from error
    ours, sizes = run.tasks.spec, {}
    for name in ("shots", "queries"):
        if name not in settings:
            sizes[name] = getattr(ours, name)
    if ours.metric == "accuracy" and source.spec.metric == "accuracy" and "ways" not in settings:
        sizes["ways"] = ours.outputs
    told = [f"{name} {value}" for name, value in settings.items() if name not in ("name", "root")]
    with contextlib.suppress(InnerloopError):  # its sizes may be its own; whether they will do, `fits` says
        source = source.resized(**sizes)
    return ", ".join([settings["name"], *told]), source


def _subject(run: Run, chosen: FixedEpisodes, unfamiliar: Mapping[str, TaskSource]) -> Subject:
    example = first_block(chosen, run.tasks, run.meta)
    subject = Subject(run.learner, run.meta, run.tasks, example, chosen.split, unfamiliar)
    for source in unfamiliar.values():
        fits(subject, source)
    return subject


def _setup(run: Run, subject: Subject, chosen: FixedEpisodes) -> tuple[Records, list[Records]]:
    """Facts that the records are read by, and why one is missing."""
    spec, learner, why = subject.spec, run.learner, []
    factor = None
    try:
        factor = safety_factor(subject)
    except (NotEvaluated, NotImplementedError, RuntimeError) as error:
        why = [{"name": "safety factor", "reason": reason(error)}]
    setup = {
        "split": chosen.split,
        "episodes": chosen.episodes,
        "seed": chosen.seed,
        "step": run.step,
        "metric": spec.metric,
        "loss": spec.loss,
        "ways": subject.ways if spec.metric == "accuracy" else None,
        "shots": subject.shots,
        "support": subject.support_size,
        "inner_steps": learner.inner_steps,
        "test_inner_steps": learner.test_inner_steps,
        "ordered": learner.ordered,
        "transductive": learner.transductive,
        "safety_factor": factor,
        "config": run.config.to_dict(),
    }
    return setup, why


def _of_seed(run: Run, chosen: FixedEpisodes) -> Records:
    """The same tasks, judged with the run of another seed."""
    found = Stability(_subject(run, chosen, {}), chosen, axis=run.config.train.tasks_axis).undisturbed()
    row = {name: found[name] for name in ("score", "loss")}
    size = f"seed {run.config.train.seed}"
    return {"name": SEED, "size": size, "amount": None, "about": "another seed", "tasks": "same"} | row


def _need_same_settings(run: Run, others: Sequence[Run]) -> None:
    """Raise unless runs differ in nothing but their seed."""
    ours = run.config.to_dict()
    for other in others:
        theirs = other.config.to_dict()
        for name in dict.fromkeys([*ours, *theirs]):
            if name != "seed" and ours.get(name) != theirs.get(name):
                where = other.folder.path if other.folder is not None else "another run"
                raise ConfigError(
                    f"{name} in {where} is another than in the first run",
                    expected="runs that differ in nothing but their seed",
                    do="give runs of other seeds; 'innerloop compare' takes runs of other settings",
                )
