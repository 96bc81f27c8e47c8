"""Lesson 00: two small exercises to learn how exercises work."""

import torch

from course_lib.exercises.exercise import Case, Choice, Exercise, Misconception, Question
from course_lib.exercises.values import describe, difference
from course_lib.measure.size import megabytes
from course_lib.pruning.masks import sparsity


def _sparsity_cases(generator: torch.Generator) -> list[Case]:
    w = torch.randn(4, 6, generator=generator)
    w[torch.rand(4, 6, generator=generator) < 0.4] = 0.0
    w[0, 0], w[0, 1] = 0.0, -1.5  # at least one zero and one negative weight
    return [
        Case("a short vector", (torch.tensor([0.0, -2.0, 0.0, 3.0]),)),
        Case("a matrix", (w,)),
        Case("a vector without zeros", (torch.tensor([0.5, -0.5]),), part="edges"),
        Case("nothing but zeros", (torch.zeros(2, 3),), part="edges"),
        Case("a negative zero, which is a zero too", (torch.tensor([-0.0, 1.0]),), part="edges"),
        Case("integer weights", (torch.tensor([0, 3, -3, 0, 0]),), part="edges"),
    ]


def _verify_sparsity(case: Case, output) -> str | None:
    return difference(output, sparsity(case.args[0]))


SPARSITY = Exercise(
    id="sparsity",
    title="the fraction of zeros",
    points=2,
    difficulty=1,
    minutes=4,
    hints=(
        "A comparison such as `w == 0` gives a tensor of True and False, one for each weight.",
        "True counts as 1 and False as 0: what does the mean of such a tensor say? (Means want floats: `.float()`.)",
    ),
    reference=sparsity,
    cases=_sparsity_cases,
    verify=_verify_sparsity,
    misconceptions=(
        Misconception(
            "density",
            lambda w: float((w != 0).float().mean()),
            lambda case, output: (
                f"For {describe(case.args[0])} you get {describe(output)}: that is the fraction that is *not* zero, "
                "the density. Sparsity counts the others."
            ),
        ),
        Misconception(
            "count",
            lambda w: int((w == 0).sum()),
            lambda case, output: (
                f"For {describe(case.args[0])} you get {describe(output)}: that looks like a count of zeros. "
                f"Sparsity is a fraction, between 0 and 1, whatever the {case.args[0].numel()} entries."
            ),
        ),
        Misconception(
            "rows_counted",
            lambda w: float((w == 0).sum()) / len(w),
            lambda case, output: (
                f"For {len(case.args[0])} rows of {case.args[0].shape[-1]} you get {describe(output)}: the zeros are divided by the "
                "number of rows. How many entries are there in all?"
            ),
        ),
        Misconception(
            "percent",
            lambda w: 100 * float((w == 0).float().mean()),
            lambda case, output: (
                f"You get {describe(output)}: a percentage. In this course sparsity is a fraction between 0 and 1."
            ),
        ),
        Misconception(
            "not_positive",
            lambda w: float((w <= 0).float().mean()),
            lambda case, output: (
                f"For {describe(case.args[0])} you get {describe(output)}: negative weights are counted along. "
                "A weight of −2 is as alive as one of 2."
            ),
        ),
    ),
)


def _megabytes_cases(generator: torch.Generator) -> list[Case]:
    n = int(torch.randint(1_000_000, 9_000_000, (1,), generator=generator)) * 8
    return [
        Case("a million weights of 32 bits", (1_000_000, 32)),
        Case("a million weights of 8 bits", (1_000_000, 8)),
        Case("a large model in half precision", (n, 16)),
        Case("4-bit weights", (n, 4), part="small"),
        Case("single bits", (n, 1), part="small"),
    ]


MEGABYTES = Exercise(
    id="megabytes",
    title="how large a model is",
    points=2,
    difficulty=1,
    minutes=4,
    hints=(
        "How many bits are there in all? And how many bits make a byte?",
        "A megabyte (MB) is a million bytes: the unit of file managers, disks and of this course. 2²⁰ bytes are a mebibyte (MiB).",
    ),
    reference=megabytes,
    cases=_megabytes_cases,
    verify=lambda case, output: difference(output, megabytes(*case.args), rtol=1e-9),
    misconceptions=(
        Misconception(
            "mebibytes",
            lambda parameters, bits: parameters * bits / 8 / 2**20,
            lambda case, output: (
                f"You get {describe(output)} for {case.args[0]:,} weights: mebibytes of 2²⁰ bytes. A megabyte is a million."
            ),
        ),
        Misconception(
            "megabits",
            lambda parameters, bits: parameters * bits / 1e6,
            lambda case, output: (
                f"You get {describe(output)} for {case.args[0]:,} weights of {case.args[1]} bits: that many mega*bits*."
            ),
        ),
        Misconception(
            "whole_bytes",
            lambda parameters, bits: parameters * (bits // 8) / 1e6,
            lambda case, output: (
                f"Weights of {case.args[1]} bits come out at {describe(output)} MB. Several of them share a byte: "
                "do not round before you have added up."
            ),
        ),
        Misconception(
            "bytes",
            lambda parameters, bits: parameters * bits / 8,
            lambda case, output: f"You get {describe(output)}: bytes, not yet megabytes.",
        ),
    ),
)

EXERCISES = (SPARSITY, MEGABYTES)

QUESTIONS = (
    Question(
        "zeros_and_bytes",
        "Half of the weights of a float32 matrix are set to zero, and it is saved as before. The file is now",
        (
            Choice(
                "half as large", "A zero in float32 takes 32 bits like every other number. Nothing was left out of the file."
            ),
            Choice("a little larger", "Only if something is added, such as a mask. Nothing was added here."),
            Choice(
                "as large as before",
                "A zero takes as many bits as any other number. Lesson 05 stores them cheaper.",
                right=True,
            ),
        ),
    ),
    Question(
        "why_predict",
        "Why does a lesson ask for your prediction before it measures?",
        (
            Choice("Predictions are graded", "They earn no points and nobody but you sees them."),
            Choice(
                "A guess that turns out wrong is remembered",
                "Being surprised by a number you committed to is what makes it stick.",
                right=True,
            ),
            Choice("The measurement depends on it", "It does not: the lesson measures the same without it."),
        ),
    ),
    Question(
        "smaller_by",
        "A model goes from 90 MB to 15 MB. How many times smaller is it?",
        number=6.0,
        tolerance=0.01,
        explanation="90 / 15 = 6. Said as a saving it is 83 %: a large-looking percentage, the same fact.",
        slips=(
            (83.3, "That is the saving in per cent. How many times does the new model fit into the old one?"),
            (1 / 6, "That is the new size as a share of the old. How many times does the new model fit into the old one?"),
            (75.0, "That many megabytes are saved. How many times does the new model fit into the old one?"),
        ),
    ),
)
