# %% [markdown]
# # How many weights are zero?
#
# A short lesson, {{lesson}}, with every mark that a source may have. In LaTeX two braces mean nothing: $x^{{2}}$.

# %%
# copy the weights: a comment, not a command
import torch

from course_lib.exercises import check, use

w = torch.tensor([0.0, -2.0, 0.0, 3.0])

# %% [markdown]
# ## The fraction of zeros
# {{exercise sparsity}}


# %% exercise="sparsity"
def sparsity(w: torch.Tensor) -> float:
    """The fraction of zeros in ``w``.

    >>> sparsity(torch.tensor([0.0, 1.0]))
    0.5
    """
    ### BEGIN SOLUTION
    zeros = w == 0
    return float(zeros.float().mean())
    ### END SOLUTION


# %% check="sparsity"
check("sparsity", sparsity)

# %% [markdown] solution_only=true
# The mean of a mask is the fraction of True in it.

# %% solution_only=true
print("for readers of the solution")

# %%
sparsity = use("sparsity", sparsity)

# %% compare=true
print(f"{sparsity(w):.2f} of the weights are zero")


# %% exercise="megabytes"
def megabytes(parameters: int, bits: int) -> float:
    """Millions of bytes of so many parameters of so many bits."""
    ### BEGIN SOLUTION
    return parameters * bits / 8 / 1e6
    ### END SOLUTION


# %% check="megabytes"
check("megabytes", megabytes)

# %% [markdown] open="why_zeros" points=3
# Why does a file with many zeros not shrink by itself?
#
# <!-- BEGIN SOLUTION -->
# A zero is stored in as many bits as any other number.
# <!-- END SOLUTION -->

# %%
# the same text twice

# %%
# the same text twice
