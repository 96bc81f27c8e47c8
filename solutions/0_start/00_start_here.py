# %% [markdown]
# # Start here: how this course works
#
# **The question.** How does this course work, and is my machine ready for it?
#
# **You will build** two small functions that every later lesson needs, and meet everything you will use again: predictions, exercises,
# checks, hints, and the place where your progress is kept.
#
# **Needs** Python and a little PyTorch. No GPU, no network.
#
# {{lesson}}

# %% [markdown]
# ## Something that should not be so
#
# A language model is, for the most part, a pile of matrices. Making it smaller sounds easy: many entries of those matrices are
# tiny, so set them to zero. Half of the numbers gone, half of the work gone. This is how the story is told in many articles.
#
# Let us try it before we believe it. This course is about one encoder, a Transformer that turns a text into numbers, 384 for each of its
# words: all-MiniLM-L6-v2. Below is one of its matrices, in its first layer, by which the 384 numbers of a word become 1 536. We keep
# the largest tenth of its entries and set everything else to zero.

# %%
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from course_lib.exercises import check, hint, pick, predict, quiz, reveal, use
from course_lib.measure.bench import median_ms
from course_lib.models.zoo import load_encoder
from course_lib.pruning.masks import mask_by_sparsity
from course_lib.show.sizes import before_and_after, plot_parts, sizes_at
from course_lib.show.text import prose

encoder = load_encoder("minilm")
W = encoder.encoder.layer[0].intermediate.dense.weight.detach()  # (1536, 384): one row per neuron
W_pruned = W * mask_by_sparsity(W.abs(), sparsity=0.9)
prose(f"The matrix has {W.numel():,} entries; {int((W_pruned != 0).sum()):,} of them are left.")

# %% [markdown]
# ## Predict first
#
# This is a habit of the course: **before anything is measured, you commit to a number.** Nobody grades it. But a number you
# have committed to is one you will remember, above all when it turns out to be wrong. Type your guess and press the button.
# (If you see no button: `predict("file_size", …, answer=50)` does the same. The first answer counts.)

# %%
predict("file_size", "Nine tenths of the matrix are zero. How large is its file now, in per cent of the file before?", unit="%")

# %%
predict(
    "product_time", "And the product with a batch of words: how long does it take, in per cent of the time before?", unit="%"
)

# %% [markdown]
# Now we measure both. The file is written as the whole field writes it, in the safetensors format, and the product is timed a number of
# times in turns, with the median taken. How to time without fooling yourself is a topic of its own, in lesson 21.


# %%
def file_bytes(matrix: torch.Tensor) -> int:
    """Bytes of a safetensors file that holds this matrix."""
    with tempfile.TemporaryDirectory() as folder:
        save_file({"weight": matrix.contiguous()}, Path(folder) / "m.safetensors")
        return (Path(folder) / "m.safetensors").stat().st_size


words = torch.randn(256, 384, generator=torch.Generator().manual_seed(0))  # a batch of 256 word vectors
size = {"dense": file_bytes(W), "nine tenths zero": file_bytes(W_pruned)}
ms = median_ms(lambda: words @ W.T, lambda: words @ W_pruned.T, repeats=pick(101, 15))
time = dict(zip(size, ms, strict=True))

# %%
before_and_after(size, time)

# %%
reveal("file_size", measured=100 * size["nine tenths zero"] / size["dense"], unit="%")

# %%
reveal("product_time", measured=100 * time["nine tenths zero"] / time["dense"], unit="%")

# %%
prose(
    f"The file went from {size['dense']:,} bytes to {size['nine tenths zero']:,}, "
    f"the product from {time['dense']:.2f} ms to {time['nine tenths zero']:.2f} ms."
)

# %% [markdown]
# Whatever differs there beyond the last digit is the restlessness of a computer. A zero is a number like any other: it takes 32 bits, and
# it is multiplied like any other. **A model gets smaller only when fewer bits are stored, and faster only when less is computed.**
# Neither happens by itself. Making both happen, and keeping what the model knows, is what this course is about.
#
# Two words before we go on, because we shall use them in every lesson.

# %% [markdown]
# ## Sparsity
#
# Write $w_1, \dots, w_n$ for the $n$ entries of a weight tensor, whatever its shape. Its **sparsity** is the fraction of them that is
# zero:
#
# $$s(w) \;=\; \frac{1}{n} \sum_{i=1}^{n} \mathbf{1}[\,w_i = 0\,], \qquad 0 \le s \le 1.$$
#
# The bracket $\mathbf{1}[\cdot]$ is 1 where the condition holds and 0 where it does not. The other fraction, $d = 1 - s$, is called the
# **density**. Papers mix the two up, and articles call a model "90 % pruned" and "10 % sparse" in one breath, so it pays to be strict here.
#
# In code, the sum of brackets is a comparison and a mean. Take `torch.tensor([0.0, -2.0, 0.0, 3.0])`: two of four entries are zero, so its
# sparsity is 0.5.

# %% [markdown]
# ## Exercise: the fraction of zeros
#
# {{exercise sparsity}}
#
# An exercise is one function. Read what it promises, replace the body, run the cell, then run the check below it.


# %% exercise="sparsity"
def sparsity(w: torch.Tensor) -> float:
    """The fraction of entries of ``w`` that are zero.

    Args:
        w: weights of any shape and type, at least one entry.
    Returns:
        A plain number between 0 (no zeros) and 1 (nothing but zeros).

    >>> sparsity(torch.tensor([0.0, -2.0, 0.0, 3.0]))
    0.5
    """
    ### BEGIN SOLUTION
    return float((w == 0).float().mean())
    ### END SOLUTION


# %% check="sparsity"
check("sparsity", sparsity)

# %% [markdown]
# The card tells you one of three things: that nothing was attempted yet, that all cases pass, or what your answer looks like. It tries inputs that are
# drawn afresh, so an answer made up for the example does not pass; and it knows the usual ways to be wrong. Try it: return the
# density instead, on purpose, and read what it says. (The number below the card is your points.)
#
# Stuck? Hints come one step at a time, and cost nothing:

# %%
hint("sparsity")

# %% [markdown] solution_only=true
# **Why this is right.** `w == 0` is true for zeros of either sign and for no other number, so its mean is the formula word by word. Counting
# `w <= 0` would bury every negative weight; `w.sum() == 0` asks a question about the sum.

# %% [markdown]
# ## Your function goes to work
#
# After each exercise comes a line like the next one. It takes **your** function if it passed and the library's if not, and says which. So you are never
# stuck: a lesson runs from top to bottom with no exercise solved, and you can come back.

# %%
sparsity = use("sparsity", sparsity)

# %% compare=true
print(f"sparsity of the matrix before: {sparsity(W):.3f}, after: {sparsity(W_pruned):.3f}")

# %% [markdown]
# The same holds for what the library knows and you can look up: everything you build exists in `course_lib`, with the formula and the paper it comes from.
# Here is the independent check that a careful person makes, against PyTorch's own count:

# %% compare=true
zeros = W_pruned.numel() - int(torch.count_nonzero(W_pruned))
print(
    f"PyTorch counts {zeros:,} zeros, our fraction of {W_pruned.numel():,} entries makes {sparsity(W_pruned) * W_pruned.numel():,.0f}"
)

# %% [markdown]
# ## How large is a model?
#
# A model of $n$ parameters, each stored in $b$ bits, takes $n \cdot b$ bits. Eight bits make a byte, and a megabyte (MB) is a million bytes:
#
# $$\text{MB}(n, b) \;=\; \frac{n \cdot b}{8 \cdot 10^{6}}.$$
#
# For a network in the usual 32-bit floats that is four bytes a parameter. Articles often give sizes in mebibytes ($2^{20}$ bytes, MiB) and call them
# MB: a difference of 5 %, which is as much as some compression methods claim to save. We count in MB, as disks and downloads do.
#
# For example, one million parameters take 4 MB at 32 bits and 1 MB at 8 bits.

# %% [markdown]
# ## Exercise: megabytes
#
# {{exercise megabytes}}


# %% exercise="megabytes"
def megabytes(parameters: int, bits: float) -> float:
    """Size in MB (a million bytes) of so many parameters of so many bits each.

    Args:
        parameters: how many numbers are stored.
        bits: of each of them; 4-bit weights share bytes, two in each.
    Returns:
        Megabytes, not rounded.

    >>> megabytes(1_000_000, 32)
    4.0
    """
    ### BEGIN SOLUTION
    return parameters * bits / 8 / 1e6
    ### END SOLUTION


# %% check="megabytes"
check("megabytes", megabytes)

# %% [markdown]
# Stuck? `hint("megabytes")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** Multiply first, divide last. Whoever divides the bits by eight first and keeps a whole number finds that 4-bit weights take no room
# at all.

# %%
megabytes = use("megabytes", megabytes)

# %% [markdown]
# ## Where the megabytes are
#
# With it we can ask where the size of our encoder sits. Guess before you look: the encoder has six layers of attention and feed-forward matrices, and one
# table with a vector of 384 numbers for each of the 30 522 word pieces it knows.

# %%
predict("embedding_share", "What share of the encoder's parameters is in that table?", unit="%")


# %%
def part_of(name: str) -> str:
    """Which part of the encoder a parameter belongs to; biases of the attention are counted with it."""
    if "word_embeddings" in name:
        return "word pieces"
    if "attention" in name and "LayerNorm" not in name:
        return "attention"
    return "feed-forward" if "dense.weight" in name and "pooler" not in name else "everything else"


parts = {"word pieces": 0, "attention": 0, "feed-forward": 0, "everything else": 0}
for name, p in encoder.named_parameters():
    parts[part_of(name)] += p.numel()
plot_parts({part: megabytes(count, 32) for part, count in parts.items()})

# %%
reveal("embedding_share", measured=100 * parts["word pieces"] / sum(parts.values()), unit="%")

# %% [markdown]
# The longest bar is a table of word vectors, of which a sentence touches a few dozen rows. Keep the picture in mind: a method that
# makes only the layers smaller, however clever, leaves it as it is. Lesson 12 trims the table; lesson 17 stores it in 8 bits.
#
# Now turn the knob: the bits of each parameter, in the layers and in the table.

# %%
sizes_at({part: megabytes(count, 1) for part, count in parts.items()})

# %% [markdown]
# ## What goes wrong in practice
#
# A widespread recipe sets weights to zero, counts those that are left, and reports the count as the size of the new model. Here is that report for our
# pruned matrix, beside the truth.

# %% compare=true
reported = int((W_pruned != 0).sum())
print(f"reported:  {megabytes(reported, 32):.2f} MB ({reported:,} parameters 'left')")
print(f"on disk:   {megabytes(W_pruned.numel(), 32):.2f} MB ({W_pruned.numel():,} parameters stored)")

# %% [markdown]
# Both numbers describe the same tensor. In this course a size is always what a file takes, with everything counted that one has to ship:
# scales, indices, masks, codebooks, the tokenizer. And a speed is always measured, never concluded from a count.

# %% [markdown]
# ## Is this machine ready?
#
# The same examination as `course doctor` on the command line. "note" is no fault: it tells what this processor cannot do, and what follows.

# %%
from course_lib.doctor import examine

for row in examine(Path("artifacts"), "minilm"):
    print(f"{row['state']:4}  {row['what']}: {row['found'].partition(' at ')[0]}")  # without where it lies on this machine

# %% [markdown]
# ## Where your progress is kept
#
# Points, predictions and answers are noted in one small file, outside the notebooks: `work/progress.json`. Two open notebooks
# do not get in each other's way, and a notebook that you delete takes nothing with it. `course progress` shows it on the command line, `course list`
# the lessons in their order. Your copies of the lessons are in `work/`; `course start 01_l1_pruning_math` makes the next one.
# Nothing leaves your machine.

# %% [markdown]
# ## Questions for reflection
#
# Each answer has its explanation, the wrong ones too.

# %%
quiz("zeros_and_bytes")

# %%
quiz("smaller_by")

# %%
quiz("why_predict")

# %% [markdown] open="what_must_shrink" points=2
# **In your own words** (an instructor reads this one): somebody tells you that their model has become 60 % smaller by pruning. Which two questions do
# you ask before you believe it?
#
# <!-- BEGIN SOLUTION -->
# For example: *"Smaller on disk, or fewer non-zero weights?"* and *"At what score on data that chose nothing?"* Good answers also ask what was
# counted (scales, indices, masks, tokenizer), whether it is faster too and on which machine, and whether it was trained again afterwards.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. A zero takes as many bits and as much time as any other number.
# 2. Sparsity is the fraction of zeros; density is the rest.
# 3. Size in MB is parameters × bits / 8 / 10⁶, with everything counted that one ships.
# 4. The largest part of our encoder is its table of word pieces, not its layers.
# 5. Predict, then measure; what surprises you is what you learn.
#
# **Sources.** The encoder: Wang et al., *MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers*, 2020,
# arXiv 2002.10957; Reimers and Gurevych, *Sentence-BERT*, 2019, arXiv 1908.10084. On what sparsity does not buy by itself: Hooker, *The Hardware
# Lottery*, 2020, arXiv 2009.06489.
