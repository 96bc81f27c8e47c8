"""Three steps that nbgrader's own list lacks; ``nbgrader_config.py`` puts them in.

This module is the only one here that needs nbgrader (extra ``classroom``) to be imported.
"""

import os
import tempfile

import nbgrader.preprocessors as own
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment


class LearnersCopy(own.NbGraderPreprocessor):
    """Leaves out what is for readers of the solution: cells marked ``solution_only``, the state of widgets."""

    def preprocess(self, nb, resources):
        """Drop the cells for instructors alone and the widgets' state."""
        nb.cells = [cell for cell in nb.cells if not cell.metadata.get("course", {}).get("solution_only")]
        nb.metadata.pop("widgets", None)
        return nb, resources


class MendCells(own.OverwriteCells):
    """Makes any submission gradable: what is graded, and for how much, comes from the gradebook alone.

    nbgrader's own steps stop the whole batch at a copied cell (`SchemaTooOldError`) and leave a deleted test without a score.
    Here, of copies of a test the first counts, the one above the place where the lesson goes on with the library's function;
    of copies of an answer the last that was changed. A deleted test is put back under its exercise; where that is gone too,
    at the top, so that it fails. A deleted question is put back at the end, unanswered. Metadata of cells that the gradebook
    does not know is dropped.
    """

    def preprocess(self, nb, resources):
        """Give every graded cell the gradebook's metadata, and locked ones its text."""
        info = resources["nbgrader"]
        with Gradebook(info["db_url"]) as gradebook:
            known = _graded_cells(gradebook.find_notebook(info["notebook"], info["assignment"]))
        kept = {}
        for index, cell in enumerate(nb.cells):
            found = cell.metadata.pop("nbgrader", None)
            name = found.get("grade_id") if isinstance(found, dict) else None
            if name in known and (name not in kept or (not known[name]["locked"] and cell.source != known[name]["source"])):
                kept[name] = index
            elif found is not None:
                self.log.warning("Cell %d: a copy, or unknown to the gradebook (%s); not graded", index, name)
        for name, index in kept.items():
            nb.cells[index].metadata["nbgrader"] = dict(known[name]["metadata"])
        for name in [name for name in known if name not in kept and "points" in known[name]["metadata"]]:
            self.log.warning("Cell %s was deleted; put back", name)
            nb.cells.insert(_place(nb, name), _restored(known[name]))
        return super().preprocess(nb, resources)  # locked cells get their text back


class ExecuteApart(own.Execute):
    """Runs a submission for grading: it leaves the instructor's own progress alone, and waits for nobody at a widget."""

    def preprocess(self, nb, resources, *arguments):
        """Execute with a progress file of its own and no display; the environment comes back afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            changed = {"COURSE_PROGRESS": os.path.join(folder, "progress.json"), "COURSE_HEADLESS": "1"}
            before = {key: os.environ.get(key) for key in changed}
            os.environ.update(changed)
            try:
                return super().preprocess(nb, resources, *arguments)
            finally:
                for key, value in before.items():
                    os.environ.pop(key) if value is None else os.environ.update({key: value})


def generate_steps() -> list[type]:
    """The steps of ``nbgrader generate_assignment``."""
    return [LearnersCopy, *GenerateAssignment().preprocessors]


def sanitize_steps() -> list[type]:
    """The first half of ``nbgrader autograde``."""
    steps = [step for step in Autograde().sanitize_preprocessors if step is not own.DeduplicateIds]
    return [MendCells if step is own.OverwriteCells else step for step in steps]


def autograde_steps() -> list[type]:
    """The second half of ``nbgrader autograde``."""
    return [ExecuteApart if step is own.Execute else step for step in Autograde().autograde_preprocessors]


def _graded_cells(notebook) -> dict[str, dict]:
    """For each cell of the gradebook: its metadata for nbgrader, its text, and whether learners may not change it."""
    points = {cell.name: cell.max_score for cell in (*notebook.grade_cells, *notebook.task_cells)}
    graded = {cell.name for cell in notebook.grade_cells}
    answers = {cell.name for cell in notebook.solution_cells}
    tasks = {cell.name for cell in notebook.task_cells}
    known = {}
    for cell in notebook.source_cells:
        name = cell.name
        metadata = {"grade_id": name, "grade": name in graded, "solution": name in answers, "task": name in tasks}
        metadata |= {"locked": cell.locked, "checksum": cell.checksum, "cell_type": cell.cell_type, "schema_version": 3}
        if name in points:
            metadata["points"] = points[name]
        known[name] = {"metadata": metadata, "source": cell.source, "locked": cell.locked, "cell_type": cell.cell_type}
    return known


def _place(nb, name: str) -> int:
    """Where a deleted cell goes: a test after its exercise, or else to the top; a question to the end."""
    exercise = name.removeprefix("check_")
    if exercise == name:
        return len(nb.cells)
    names = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in nb.cells]
    return names.index(exercise) + 1 if exercise in names else 0


def _restored(known: dict):
    from nbformat import v4

    new = v4.new_code_cell if known["cell_type"] == "code" else v4.new_markdown_cell
    return new(known["source"], metadata={"deletable": False, "nbgrader": dict(known["metadata"])})
