"""nbgrader on this course: `nbgrader generate_assignment 1_pruning`, `nbgrader autograde 1_pruning`, … in this folder.

Parts are assignments. solutions/ holds the sources, notebooks/ what learners get; submissions and grades are ignored by git.
"""

from pathlib import Path

from course_lib.classroom.nbgrader_steps import autograde_steps, generate_steps, sanitize_steps

c = get_config()  # noqa: F821  (nbgrader defines it)

c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "notebooks"
# The lessons' sources hold the solutions: nbgrader copies what lies beside a notebook, and must not copy these.
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "feedback", "*.py", "*.measured.json"]

c.GenerateAssignment.preprocessors = generate_steps()
c.Autograde.sanitize_preprocessors = sanitize_steps()
c.Autograde.autograde_preprocessors = autograde_steps()
c.ExecuteApart.timeout = 300  # seconds for one cell; the slowest lessons take three minutes in all
