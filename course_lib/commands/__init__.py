"""What each command of ``course`` does; :mod:`course_lib.cli` puts them together."""
