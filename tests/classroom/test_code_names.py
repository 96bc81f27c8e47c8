"""Names in statements, and what they stand for."""

import ast

import pytest

from course_lib.classroom.names import bound, changed, full_name, here, mentioned, origins, used

CODE = """
import course_lib.pruning.l1
from course_lib.pruning import masks as m, l1
from course_lib.show import *
from numpy import ones
def f(w):
    from course_lib.plan import match as fit
    return m.sparsity(w) + fit(w) + course_lib.pruning.l1.ista_step(w) + ones(3) + prose(w)
"""


def test_what_is_read_of_a_package_is_told_by_full_names():
    nodes = [ast.parse(CODE)]
    names = origins(nodes, "course_lib")
    assert names["m"] == "course_lib.pruning.masks" and names["fit"] == "course_lib.plan.match" and "ones" not in names
    found = mentioned(nodes, names)
    assert {"course_lib.pruning.masks.sparsity", "course_lib.pruning.l1.ista_step", "course_lib.plan.match"} <= found
    assert "course_lib.show.prose" in found, "after an import of everything"
    assert full_name(ast.parse("ones.x", mode="eval").body, names) is None


@pytest.mark.parametrize(
    "source, binds, changes, uses",
    [
        ("a = b", {"a"}, set(), {"b"}),
        ("a[b].c = d", set(), {"a"}, {"a", "b", "d"}),
        ("a += 1", {"a"}, set(), {"a"}),
        ("del a.b", set(), {"a"}, {"a"}),
        ("a.b().c()", set(), {"a"}, {"a"}),
        ("import a.b, c as d", {"a", "d"}, set(), set()),
        ("with a as b: c = d", {"b", "c"}, set(), {"a", "d"}),
        ("try: a\nexcept b as c: pass", {"c"}, set(), {"a", "b"}),
        ("def a(b=c, *d: e, **f) -> g: return h + b", {"a"}, set(), {"c", "e", "g", "h"}),
        ("class a(b, metaclass=c):\n  d = e\n  def f(self): return g", {"a"}, set(), {"b", "c", "e", "g"}),
        ("a = [b for b in c if d]", {"a"}, set(), {"c", "d"}),
        ("a = lambda b=c: b + d", {"a"}, set(), {"c", "d"}),
    ],
)  # fmt: skip
def test_what_a_statement_binds_changes_and_uses(source, binds, changes, uses):
    parts = here(ast.parse(source).body[0])
    assert (bound(parts), changed(parts), used(source)(parts)) == (binds, changes, uses)
