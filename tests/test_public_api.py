"""Everything public says what it does, the shapes of its tensors and where it is from, and a test names it."""

import ast
from pathlib import Path

import pytest
from public_api import has_source, public, untested, without_docstring, without_shape, words_of

import course_lib

ROOT = Path(course_lib.__file__).parent
FAMILIES = [
    path
    for family in "pruning quantization precision redundancy classification".split()
    for path in sorted(ROOT.glob(f"{family}/*.py"))
]
CORE = [*FAMILIES, *(ROOT / f"{name}.py" for name in "granularity plan report calibration layerwise obs".split())]

# Modules that carry no published technique, each with what it is instead.
PLUMBING = {
    "classification/__init__.py": "a title",
    "precision/__init__.py": "a title",
    "precision/live_bytes.py": "counting",
    "pruning/__init__.py": "a title",
    "pruning/adaptive.py": "this course's own search",
    "pruning/apply.py": "a plan, carried out by other modules",
    "pruning/bits.py": "bits in bytes",
    "pruning/rank.py": "counting",
    "pruning/storage_bytes.py": "arithmetic on the formats of pruning/storage.py, which cites",
    "pruning/tree.py": "this course's own search",
    "quantization/__init__.py": "a title",
    "quantization/apply.py": "a plan, carried out by other modules",
    "quantization/codebook_weights.py": "a container; codebooks.py, nf4.py and vector.py cite",
    "quantization/embedding.py": "a container",
    "quantization/packed_linear.py": "a container",
    "quantization/packing.py": "bits in bytes",
    "quantization/prepacked.py": "a call of oneDNN",
    "quantization/sorted_sums.py": "sums",
    "quantization/storage.py": "a file format",
    "quantization/survey_formula.py": "a formula repeated by surveys, kept to show what it loses",
    "quantization/weights.py": "a container; affine.py cites",
    "redundancy/__init__.py": "a title",
    "redundancy/added_weights.py": "what lora.py and adapters.py share, which cite",
    "redundancy/duplicates.py": "hashes and cosines",
    "redundancy/joined_modules.py": "containers",
    "redundancy/low_rank_layers.py": "a plan, carried out; low_rank.py cites",
    "redundancy/positions.py": "rows of a table left out",
    "redundancy/rank_latency.py": "a line through times of this machine",
    "redundancy/storage.py": "a file format",
}

# Names that no test has, only tests of what is built on them.
REACHED = {"redundancy/added_weights.py": ["AddedModule", "added_dtype", "expect_finite"]}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Of all tests but this one, whose lists would count as tests."""
    return words_of(Path(__file__).parent, without={"public_api.py", "test_public_api.py"})


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=name_of)
def test_everything_public_has_a_docstring(path):
    assert without_docstring(tree_of(path)) == []


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_every_tensor_has_its_shape_stated(path):
    assert without_shape(tree_of(path)) == []


@pytest.mark.parametrize("path", FAMILIES, ids=name_of)
def test_every_technique_cites_its_source(path):
    assert has_source(tree_of(path)) != (name_of(path) in PLUMBING), "a source is missing, or an exemption is not needed"


def test_every_exemption_is_of_a_module_there_is():
    assert set(PLUMBING) <= {name_of(path) for path in FAMILIES} and set(REACHED) <= {name_of(path) for path in CORE}


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_every_public_name_is_in_some_test(path, words):
    assert untested(tree_of(path), words) == REACHED.get(name_of(path), []), "a test is missing, or an exemption is not needed"


# The walker itself, on modules made up here.


def module(body: str, docstring: str = "A module.") -> ast.Module:
    return ast.parse(f'"""{docstring}"""\n{body}')


BARE = '''
def told(x):
    """Told."""
def bare(x): return x
def _private(x): return x
class Told:
    """Told."""
    @property
    def value(self): return 1
    def forward(self): return 1
    def _private(self): return 1
    def __len__(self): return 1
class Bare: ...
'''


def test_a_missing_docstring_is_found_in_functions_classes_methods_and_properties():
    assert without_docstring(module(BARE)) == ["bare", "Told.value", "Told.forward", "Bare"]
    assert without_docstring(ast.parse("x = 1")) == ["the module"]


@pytest.mark.parametrize(
    "signature",
    [
        "x: torch.Tensor",
        "*x: Tensor",
        "x: Sequence[torch.Tensor]",
        "x: Mapping[str, torch.Tensor] | None = None",
        "*, x: 'torch.Tensor'",
        "x: Iterable[Tensor]",
        "**x: dict[str, torch.Tensor]",
        "x: Mapping[str, Range] | None = None",
        "x: Iterable[Batch]",
    ],
)
def test_a_tensor_without_a_shape_is_found_in_every_kind_of_parameter(signature):
    assert without_shape(module(f'def f({signature}):\n    """Takes x."""')) == ["f"]
    assert without_shape(module(f'def f({signature}):\n    """Takes x (R, C)."""')) == []


def test_a_returned_tensor_needs_a_shape_too_and_other_types_need_none():
    assert without_shape(module('def f(n: int) -> torch.Tensor:\n    """Gives x."""')) == ["f"]
    assert without_shape(module('def f(n: int) -> list[int]:\n    """Gives n."""')) == []


def test_a_class_or_a_module_may_state_the_convention():
    body = 'class A:\n    """{}"""\n    def f(self, x: torch.Tensor):\n        """Takes x."""'
    assert without_shape(module(body.format("A."))) == ["A.f"]
    assert without_shape(module(body.format("Inputs are (B, L, D)."))) == []
    assert without_shape(module(body.format("A."), "Everything is (units,).")) == []


@pytest.mark.parametrize(
    "text",
    ["(R, C)", "(units,)", "(B, L, 2·D)", "(…, C)", "(rows + 1,)", "(G₁, G₂, …)", "any shape", "a scalar", "like ``w``"]
    + ["the weight's shape", "the scores' shape", "of the shape of x", "the same shape"],
)
def test_these_words_state_a_shape(text):
    assert without_shape(module(f'def f(x: torch.Tensor):\n    """Takes x, {text}."""')) == []


@pytest.mark.parametrize(
    "text",
    ["(a tensor)", "(Han et al. 2015, 1506.02626)", "(Han, 2015)", "(float32)", "(a weight, say)", "shape", "(see f)", "()"],
)
def test_these_words_state_none(text):
    assert without_shape(module(f'def f(x: torch.Tensor):\n    """Takes x {text}."""')) == ["f"]


@pytest.mark.parametrize(
    ("docstring", "cited"),
    [
        ("Prunes weights.", False),
        ("Prunes 50 of 1000 weights, 12345.6 of them.", False),
        ("Prunes weights (Han et al. 2015, 1506.02626).", True),
        ("Prunes weights (LeCun et al. 1989).", True),
        ("Prunes weights (2306.11695).", True),
    ],
)
def test_a_missing_source_is_found(docstring, cited):
    assert has_source(module("x = 1", docstring)) is cited
    assert has_source(module(f'def f():\n    """{docstring}"""')) is cited


def test_an_untested_name_is_found_and_a_part_of_a_word_is_no_test(tmp_path):
    tree = module("def prune(): ...\nclass Mask:\n    def apply(self): ...\n    def keep(self): ...")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "test_a.py").write_text("prune_tree()\nMask().apply()\n")
    (tmp_path / "test_b.py").write_text("keep\n")
    assert untested(tree, words_of(tmp_path)) == ["prune"]
    assert untested(tree, words_of(tmp_path, without={"test_b.py"})) == ["prune", "Mask.keep"]


def test_the_walker_sees_the_library():
    names = {p.name for p in public(tree_of(ROOT / "pruning" / "masks.py"))}
    assert {"sparsity", "Masks", "Masks.keep", "Masks.sparsity", "Masks.load"} <= names and "_check" not in names
