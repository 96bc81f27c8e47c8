"""What lesson 21 shows of the peer benchmark: both models in every program, taken from the ``peers.json`` of ``course peers``."""

from course_lib.artifacts import read_json
from course_lib.deploy.peers import WAYS
from course_lib.errors import CourseError
from course_lib.exercises.trained import artifacts_folder
from course_lib.measure.sweeps import Sweep, live_point, load_sweep, provenance, stored

SHIPPED = {"model": "student", "way": "ORT int8, mended"}
FAILED = ()  # ways that did not run where this was measured, so that there is nothing to show
POINTS = [
    {"model": model, "way": way.name} for model in ("teacher", "student") for way in WAYS if (model, way.name) not in FAILED
]


def run(point: dict) -> dict:
    """F1 on test with its interval, MB of what ships, and ms per sentence of one contender.

    Raises:
        CourseError: the benchmark was not run, or this contender failed in it.
    """
    file = artifacts_folder() / "peers.json"
    if not file.exists():
        raise CourseError(f"{file} is missing: `course peers` makes it.")
    name = f"{point['model']}, {point['way']}"
    found = [c for c in read_json(file)["contenders"] if c["name"] == name]
    if not found or found[0]["error"]:
        raise CourseError(f"{file}: {name} {'failed: ' + found[0]['error'] if found else 'is not there'}.")
    return figures(found[0])


def figures(contender: dict) -> dict:
    """What is shown of a contender of a scorecard: ``{"f1": [value, low, high], "megabytes", "ms_1", "ms_32"}``."""
    ms = {f"ms_{batch}": contender["ms_per_sentence"][batch]["median"] for batch in ("1", "32")}
    return {"f1": contender["f1"]["test"], "megabytes": round(contender["bytes"] / 1e6, 3), **ms}


def peer_points() -> tuple[list[dict], str]:
    """Rows of the table of models and programs, and where they are from.

    Returns:
        The stored points of the peer benchmark; where it is not stored, the contenders of the scorecard that ``course compress``
        left; where there is none either, nothing.
    """
    if stored("peers"):
        return load_sweep("peers"), provenance("peers")
    file = artifacts_folder() / "course" / "scorecard.json"
    if not file.exists():
        return [], "Nothing was measured here yet: `make course` leaves a scorecard of six contenders."
    card = read_json(file)
    rows = [
        {"model": c["model"], "way": c["name"].partition(", ")[2], **figures(c)} for c in card["contenders"] if not c["error"]
    ]
    about = card["machine"]
    return rows, f"From the scorecard of `make course`, {card['date']}, {about['cpu']}, {about['threads']} threads."


def run_again(f1: float) -> None:
    """Show the F1 of the shipped model, just measured, beside that of the table (and hold it to the interval of the sweep)."""
    from course_lib.show.text import prose

    if stored("peers"):
        live_point("peers", SHIPPED, {"f1": f1})
        return
    rows = [p for p in peer_points()[0] if (p["model"], p["way"]) == ("student", "ORT int8")]
    there = "".join(f"; in the table {p['f1'][0]:.3f} [{p['f1'][1]:.3f}, {p['f1'][2]:.3f}]" for p in rows)
    prose(f"F1 on test, run here: {f1:.3f}{there}.")


SWEEP = Sweep(
    name="peers",
    lesson="21_int8_on_cpu",
    points=POINTS,
    run=run,
    code=(
        "deploy/embeddings.py",
        "deploy/export.py",
        "deploy/kinds.py",
        "deploy/norms.py",
        "deploy/peers.py",
        "deploy/worker.py",
        "measure/peers_sweep.py",
    ),
    interval="95 % bootstrap over the test sentences",
)
