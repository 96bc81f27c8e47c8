"""The learner's notebook, made by nbgrader's own steps with nbgrader used as a library."""

from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.classroom.layout import Lesson, classroom
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from traitlets.config import Config

CONFIG = "nbgrader_config.py"


def nbgrader_config(root: Path) -> "Config":
    """What ``nbgrader_config.py`` of the course's folder says.

    Raises:
        CourseError: nbgrader is not installed, or there is no such file.
    """
    classroom("nbgrader")
    from traitlets.config.loader import PyFileConfigLoader

    if not (root / CONFIG).is_file():
        raise CourseError(f"{root / CONFIG} is missing: it says how learners' notebooks are made.")
    return PyFileConfigLoader(CONFIG, path=str(root)).load_config()


def learners_text(lesson: Lesson, solution: str, config: "Config") -> str:
    """The learner's notebook, byte for byte what ``nbgrader generate_assignment`` writes.

    Args:
        lesson: which it is of.
        solution: the text of its solution notebook, executed or not: outputs are cleared.
        config: :func:`nbgrader_config`.
    Raises:
        CourseError: nbgrader refuses the notebook.
    """
    import nbformat
    from nbconvert.exporters import NotebookExporter
    from nbgrader.converters import GenerateAssignment
    from nbgrader.preprocessors import SaveCells

    exporter = NotebookExporter(config=config, default_preprocessors=[])
    for step in GenerateAssignment(config=config).preprocessors:
        if step is not SaveCells:  # that one only writes to a gradebook
            exporter.register_preprocessor(step)
    notebook = nbformat.reads(solution, as_version=4)
    try:
        return exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(lesson.source.parent)}})[0]
    except (RuntimeError, ValueError) as error:
        raise CourseError(f"{lesson.name}: nbgrader cannot make the learner's notebook: {error}") from error


def data_files(root: Path, part: str, config: "Config") -> list[Path]:
    """Files beside the sources of a part that learners need too, relative to the part's folder; nbgrader copies the same."""
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.utils import find_all_files

    folder = root / "solutions" / part
    ignored = [*CourseDirectory(config=config).ignore, "*.ipynb"]
    return sorted(Path(found).relative_to(folder) for found in find_all_files(str(folder), ignored))
