"""A search over a space of recipes, kept in a database: it can be killed and goes on, and several machines can share it."""

import contextlib
import json
import os
import platform
import random
import uuid
import warnings
from collections.abc import Callable, Iterator

import psutil

from course_lib.errors import CourseError, expect
from course_lib.recipes.budget import AIMS, Budget
from course_lib.recipes.recipe import Recipe
from course_lib.recipes.space import Space

RETRIES = 3  # how often a recipe is tried again after the process that tried it died
PATIENCE = 5  # failures in a row after which something else than the recipes must be wrong
BEAT, SILENCE = 60, 180  # seconds between two signs of life of a trial, and after which it counts as dead

Evaluate = Callable[[Recipe], dict]


def optuna_library():
    """The package ``optuna``, without its messages.

    Raises:
        CourseError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise CourseError("A search needs Optuna: pip install 'course_lib[search]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Without what Optuna says about heartbeats, which it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna_library().exceptions.ExperimentalWarning)
        yield


def open_study(storage: str, name: str, seed: int = 0):
    """The study of this name in a database, made when missing; trials whose process died on this machine are queued again.

    Args:
        storage: a database as SQLAlchemy writes it, such as ``sqlite:///search.db`` or ``postgresql://…``.
        name: of the study.
        seed: of the sampler (TPE, Bergstra et al. 2011, for several aims as in Ozaki et al. 2022); a search that goes on draws anew.
    Returns:
        An Optuna study that minimises :data:`course_lib.recipes.budget.AIMS`.
    Raises:
        CourseError: Optuna or the database's driver is missing, or the database cannot be opened.
    """
    optuna = optuna_library()
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    patient = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}  # its writers wait for each other
    try:
        with _unwarned():
            database = optuna.storages.RDBStorage(
                storage, patient, heartbeat_interval=BEAT, grace_period=SILENCE, heartbeat_stale_trial_callback=_again
            )
            study = optuna.create_study(
                storage=database, study_name=name, directions=["minimize"] * len(AIMS), load_if_exists=True
            )
    except (ArgumentError, SQLAlchemyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CourseError(
            f"--storage {storage}: {reason}. Expected a database such as sqlite:///search.db or postgresql://user@host/name, "
            "with its driver installed."
        ) from error
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    _requeue(study)
    return study


def run_search(
    study,
    space: Space,
    evaluate: Evaluate,
    trials: int,
    budget: Budget = Budget(),  # noqa: B008 -- it is frozen
    seed: int = 0,
    progress: Callable[[dict], None] | None = None,
) -> None:
    """Try recipes until ``trials`` different ones are measured, those of earlier runs and other machines included.

    Args:
        study: of :func:`open_study`.
        space: what to choose from.
        evaluate: recipe → figures, ``loss``, ``bytes`` and ``ms`` among them; with ``reference_ms`` too, the time of one and the
            same model measured beside the recipe's, ``ms`` is brought to the machine and moment of the first trial by it.
        trials: at least 1.
        budget: the sampler prefers what is like recipes that kept it; the others are measured and listed all the same.
        seed: draws where the sampler repeats itself.
        progress: called with each row of :func:`measured` as it comes.
    Raises:
        CourseError: several recipes in a row could not be tried.
        ValueError: ``trials`` below 1.
    """
    expect(trials >= 1, "trials", trials, "at least 1 recipe")
    state, finished = optuna_library().trial.TrialState, optuna_library().exceptions.UpdateFinishedTrialError
    rng, failed, new, in_a_row = random.Random(seed), {}, [], 0

    def told(trial, figures: dict) -> list[float]:
        for aim, over in budget.excess(figures).items():
            trial.set_constraint(aim, over)
        return [figures[aim] for aim in AIMS]

    def objective(trial):
        trial.set_user_attr("process", _process())
        picked = _suggest(trial, space)
        key = _key(picked)
        known = {_key(row["picked"]): row for row in measured(study)}
        if key in known:
            trial.set_user_attr("repeats", known[key]["trial"])
            return told(trial, known[key])
        if key in failed:
            raise CourseError(failed[key])
        try:
            figures = _brought(study, evaluate(space.recipe(picked)))
        except KeyboardInterrupt:
            study.enqueue_trial(trial.params, user_attrs={"died": trial.user_attrs.get("died", 0)})
            raise
        except (CourseError, ValueError) as error:
            failed[key] = str(error)
            trial.set_user_attr("error", str(error))
            raise CourseError(str(error)) from error
        trial.set_user_attr("figures", figures)
        new.append({"trial": trial.number, "picked": picked, **figures})
        return told(trial, figures)

    with _unwarned():
        while True:
            rows, before = measured(study), len(failed)
            seen = {_key(row["picked"]) for row in rows} | set(failed)
            running = study.get_trials(deepcopy=False, states=(state.RUNNING,))
            if len(rows) + len(running) >= trials or len(seen) >= space.size:
                return
            try:
                study.optimize(objective, n_trials=1, catch=(CourseError,))
            except (ValueError, finished) as error:  # SQLite lets two processes take one queued trial: the other was faster
                if not isinstance(error, finished) and "Cannot tell a" not in str(error):
                    raise
                new.clear()
                continue
            if new:
                row, in_a_row = new.pop(), 0
                if progress:
                    progress(row)
                continue
            in_a_row += len(failed) - before
            if in_a_row >= PATIENCE:
                raise CourseError(f"{PATIENCE} recipes in a row could not be tried. The last one: {list(failed.values())[-1]}")
            if len(seen | set(failed)) < space.size:  # the sampler repeats itself: help it on
                fresh = space.draw(rng)
                while _key(fresh) in seen | set(failed):
                    fresh = space.draw(rng)
                study.enqueue_trial({name: json.dumps(value) for name, value in fresh.items()})


def measured(study) -> list[dict]:
    """The recipes that were measured, each once: ``trial``, ``picked`` and its figures."""
    state, rows = optuna_library().trial.TrialState.COMPLETE, {}
    for t in study.get_trials(deepcopy=False, states=(state,)):
        if "repeats" not in t.user_attrs:  # two machines may have tried the same one at the same time: the first counts
            rows.setdefault(_key(_picked(t)), {"trial": t.number, "picked": _picked(t), **t.user_attrs["figures"]})
    return list(rows.values())


def failures(study) -> list[dict]:
    """The recipes that could not be tried and were not measured since: ``trial``, ``picked`` and ``error``."""
    good = {_key(row["picked"]) for row in measured(study)}
    rows = {}
    for t in study.get_trials(deepcopy=False):
        died = t.state.name == "FAIL" and t.user_attrs.get("died", 0) >= RETRIES
        error = t.user_attrs.get("error") or ("its process died again and again" if died else None)
        if error and _key(_picked(t)) not in good:
            rows[_key(_picked(t))] = {"trial": t.number, "picked": _picked(t), "error": error}
    return list(rows.values())


def _brought(study, figures: dict) -> dict:
    """Times brought to the first trial's machine and moment by the reference that was timed beside them."""
    if "reference_ms" not in figures:
        return figures
    if "reference_ms" not in study.user_attrs:
        study.set_user_attr("reference_ms", figures["reference_ms"])
    scale = study.user_attrs["reference_ms"] / figures["reference_ms"]
    return {**figures, "ms": round(figures["ms"] * scale, 5), "ms_timed": figures["ms"]}


def _suggest(trial, space: Space) -> dict[str, object]:
    """Values for each choice; a database holds them as JSON, for lists are no categories to Optuna."""
    return {
        name: json.loads(trial.suggest_categorical(name, [json.dumps(v) for v in choice.values]))
        for name, choice in space.choices.items()
    }


def _picked(trial) -> dict[str, object]:
    return {name: json.loads(value) for name, value in trial.params.items()}


def _key(picked: dict) -> str:
    return json.dumps(picked, sort_keys=True)


def _host() -> str:
    return f"{platform.node()}-{uuid.getnode():x}"


def _process() -> dict:
    return {"host": _host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _alive(process: dict) -> bool:
    try:
        return psutil.Process(process["pid"]).create_time() == process["started"]
    except psutil.NoSuchProcess:
        return False


def _again(study, trial) -> None:
    """Queue what a dead process was trying once more, :data:`RETRIES` times at most."""
    died = trial.user_attrs.get("died", 0) + 1
    if died <= RETRIES:
        study.enqueue_trial(trial.params, user_attrs={"died": died})


def _requeue(study) -> None:
    """Queue again what processes of this machine were trying when they died; of other machines, silence tells (:data:`SILENCE`)."""
    optuna = optuna_library()
    with _unwarned():
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        process = trial.user_attrs.get("process")
        if process and process["host"] == _host() and not _alive(process):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            _again(study, trial)
