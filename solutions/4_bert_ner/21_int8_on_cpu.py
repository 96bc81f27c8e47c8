# %% [markdown]
# # How do I ship it?
#
# **The question.** The model is small, distilled and ready for int8. What has to leave this notebook so that somebody else can use it on an ordinary
# processor, and how fast will it be there? More exactly: how would you *know* how fast it is?
#
# **You will build** the test that decides whether operators may be fused, batches that waste little on padding, a ratio of timings that survives a busy machine, and a
# repair kit for a benchmark that lies. On the way one of the usual pieces of advice turns out to be worth measuring first. At the end the finished
# model reads your own sentence.
#
# **Needs** lessons 06 and 15; 16 to 18 made the model that is shipped here.
#
# {{lesson}}

# %% [markdown]
# ## The same weights, four programs
#
# The student of this course is a BERT with a few layers and narrow feed-forward blocks. Nothing about it will change any more. What changes is the *program* that computes it: PyTorch, as
# in training; the same weights as an ONNX file in ONNX Runtime, a library that does nothing but run such files; that file after a tool has **fused** groups of operators; and the
# fused file with int8 weights.
#
# Every time in this lesson is taken on **one thread**, unless it says otherwise, so that other work on your machine disturbs it less.

# %%
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from course_lib.deploy.engines import TorchEngine
from course_lib.deploy.export import export_onnx, export_plain, quantize_onnx
from course_lib.deploy.settings import TunedEngine
from course_lib.exercises import check, hint, pick, predict, quiz, reveal, trained, use
from course_lib.models.zoo import load_token_classifier
from course_lib.show.text import prose

torch.set_num_threads(1)
scratch = tempfile.TemporaryDirectory()
FOLDER = Path(scratch.name)
student, corpus = trained.student(), trained.corpus()
export_plain(student, FOLDER / "plain.onnx")
optimizer_found = export_onnx(student, FOLDER / "fused.onnx", by_hand=False)
quantize_onnx(FOLDER / "fused.onnx", FOLDER / "int8.onnx")
engines = {
    "PyTorch": TorchEngine(load_token_classifier(student)),
    "ONNX Runtime": TunedEngine(FOLDER / "plain.onnx", threads=1),
    "ONNX Runtime, fused": TunedEngine(FOLDER / "fused.onnx", threads=1),
    "ONNX Runtime, fused, int8": TunedEngine(FOLDER / "int8.onnx", threads=1),
}

# %% [markdown]
# First of all: do they compute the same? Export can go wrong silently, so the first test of an exported model is never its speed. Sentences become rows of piece numbers
# $(B, L)$, $B$ sentences padded to $L$ pieces; each program answers with logits $(B, L, T)$ for $T$ tags.

# %%
from course_lib.data.align import collate, make_windows, pad_id
from course_lib.models.zoo import load_tokenizer, model_tags

tokenizer, tags = load_tokenizer(student), model_tags(engines["PyTorch"].model)
windows = make_windows([s.words for s in corpus.test], tokenizer)
lengths = [len(w.ids) for w in windows]  # pieces of each sentence


def padded(positions, fixed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Piece numbers and mask of these sentences, both (B, L): L is that of the longest, or fixed."""
    ids, mask = collate([windows[i] for i in positions], pad_id(tokenizer))
    more = ((0, 0), (0, (fixed or ids.shape[1]) - ids.shape[1]))
    return np.pad(ids, more), np.pad(mask, more)


ids, mask = padded(range(32))
logits = {name: engine(ids, mask) for name, engine in engines.items()}
real, exact = mask.astype(bool), logits["PyTorch"]
lines = [
    f"| {name} | {np.abs(y - exact)[real].max():.1e} | {int((y.argmax(-1) != exact.argmax(-1))[real].sum())} of {int(real.sum())} |"
    for name, y in logits.items()
]
prose("\n".join(["| | largest difference of a logit | pieces with another tag |", "|---|---|---|", *lines]))

# %% [markdown]
# In floats the programs agree up to rounding: sums in another order. Int8 differs, as lessons 06 and 17 explain; whether it matters is a question for F1, which comes at the end.

# %%
predict(
    "runtime_alone",
    "One sentence at a time, one thread, the very same float weights: how many times as fast as PyTorch is ONNX Runtime?",
    unit="×",
)

# %%
from course_lib.deploy.fair import take_turns

typical = sorted(range(len(lengths)), key=lambda i: lengths[i])[len(lengths) // 2]  # a sentence of median length
one = padded([typical])
times = take_turns({name: (lambda e=e: e(*one)) for name, e in engines.items()}, rounds=pick(60, 8))
median = {name: float(np.median(t[2:])) for name, t in times.items()}
reveal("runtime_alone", measured=median["PyTorch"] / median["ONNX Runtime"])

# %%
lines = [f"| {name} | {ms:.2f} | {median['PyTorch'] / ms:.1f}× |" for name, ms in median.items()]
prose("\n".join([f"| one sentence of {lengths[typical]} pieces | ms | as fast as PyTorch |", "|---|---|---|", *lines]))

# %% [markdown]
# Why would a program that does the same sums be faster? PyTorch runs eagerly: for every operation Python is asked what comes next, a kernel is chosen, memory is found for the result. For a
# batch of thousands of pieces that is nothing; for one sentence and a small model it is much of the time. ONNX Runtime has read the whole list of operations *beforehand*.

# %% [markdown]
# ## Export: a recording
#
# To export a model is to run it once on an example and to write down every operation, with the names of what it reads and what it computes. The result is a **graph**: nodes with an operator,
# edges that are tensors. There is no Python in it. What Python decided *during the recording* is in it for good: an `if` is the branch that was taken, a length that was read as a number is that
# number. (This is why one names the axes that may vary, here batch and length, and tests the file with lengths that were not recorded.)

# %%
predict("operators_per_layer", "How many operators does one layer of this BERT take in the recording?", unit="operators")

# %%
from course_lib.deploy.graphs import last_layer, read_graph

plain, plain_outputs = read_graph(FOLDER / "plain.onnx")
fused, _ = read_graph(FOLDER / "fused.onnx")
reveal("operators_per_layer", measured=len(last_layer(plain)))

# %%
from course_lib.show.graphs import two_graphs

two_graphs({"As recorded": last_layer(plain), "Fused": last_layer(fused)})

# %% [markdown]
# Left: the last layer as recorded. Three blue products at the top make queries, keys and values; the dots beside them compute *shapes*, again and again, because the recording must work for every batch and length. Further down
# the five yellow operators from Div to the second Mul are the GELU. Right: the same numbers from a handful of operators. Nothing was approximated; several operators became one that does all their work at once.
#
# Why might this be faster? Each operator on the left reads its input from memory and writes its result back. For a batch of $B$ sentences of $L$ pieces and $F$ feed-forward neurons, the five operators of
# the GELU
#
# $$x \;\to\; \tfrac{x}{\sqrt 2} \;\to\; \operatorname{erf}(\cdot) \;\to\; 1 + (\cdot) \;\to\; x \cdot (\cdot) \;\to\; \tfrac12 \cdot (\cdot)$$
#
# read six tensors of $B L F$ floats (one of them multiplies two) and write five. A fused GELU reads one and writes one.

# %%
F = load_token_classifier(student).config.intermediate_size
B, L = ids.shape
prose(
    f"A batch of {B} sentences here: {11 * B * L * F * 4 / 1e6:.1f} MB moved by five operators, {2 * B * L * F * 4 / 1e6:.1f} MB by one."
)

# %% [markdown]
# ## When may operators be fused?
#
# A tool that fuses looks for a **pattern**, such as Div → Erf → Add → Mul → Mul, and must be sure that nobody will miss what disappears: the results *between* the first and the last operator are never written to memory any more. So each
# of them must be read by the next operator of the chain and by nobody else, and it must not be something the graph gives out. What goes into the chain and what comes out of it may be read by anyone.

# %% [markdown]
# ## Exercise: chains that one operator can replace
#
# {{exercise find_chains}}
#
# A node is a triple `(op, inputs, output)`. The list is in an order in which the nodes can run, but neighbours in the list need not have anything to do with each other.


# %% exercise="find_chains"
def find_chains(nodes: list[tuple], pattern: list[str], outputs: set[str] = frozenset()) -> list[list[int]]:
    """Chains of operators that one operator could replace: nobody else reads what is between them.

    Args:
        nodes: (op, inputs, output) of each operator: its name, the names it reads, the name of what it computes.
        pattern: operators of a chain, from first to last.
        outputs: names that the graph gives out, which must stay.
    Returns:
        Positions in ``nodes``, a list for each chain, by where it starts. The output of each node but the last is
        read by the next one alone and is none of ``outputs``.

    >>> nodes = [("Div", ("x",), "a"), ("Erf", ("a",), "b"), ("Div", ("x",), "c"), ("Erf", ("c",), "d"), ("Add", ("c", "d"), "e")]
    >>> find_chains(nodes, ["Div", "Erf"])  # c is read twice
    [[0, 1]]
    """
    ### BEGIN SOLUTION
    readers = {}
    for position, (_, inputs, _) in enumerate(nodes):
        for name in set(inputs):
            readers.setdefault(name, []).append(position)
    chains = []
    for start in range(len(nodes)):
        chain = [start]
        while len(chain) < len(pattern):
            output = nodes[chain[-1]][2]
            if output in outputs or len(readers.get(output, [])) != 1:
                break  # somebody else wants it
            chain += readers[output]
        if [nodes[i][0] for i in chain] == list(pattern):
            chains.append(chain)
    return chains
    ### END SOLUTION


# %% check="find_chains"
check("find_chains", find_chains)

# %% [markdown]
# Stuck? `hint("find_chains")` gives one step at a time.

# %% [markdown] solution_only=true
# **Why this is right.** The chain may swallow a tensor exactly if its only reader is in the chain. In the GELU, $x$ itself has two readers, the Div and the first Mul; that does not matter, because $x$ is what goes *into* the
# chain. Production tools check more: that the constants are $\sqrt 2$, 1 and ½, that the first Mul reads the same $x$. Your function finds candidates.

# %%
find_chains = use("find_chains", find_chains)

# %% [markdown]
# On the real graph it finds, in every layer, one GELU and two places where a bias, the residual and the normalization meet. The tool that made the right picture counted the same.

# %% compare=true
layers = sum(node.op == "Softmax" for node in plain)
gelus = find_chains(plain, ["Div", "Erf", "Add", "Mul", "Mul"], plain_outputs)
norms = find_chains(plain, ["Add", "Add", "LayerNormalization"], plain_outputs)
print("per layer: GELU", len(gelus) / layers, "- the tool's:", optimizer_found["BiasGelu"] / layers)
skips = optimizer_found["SkipLayerNormalization"] / layers
print("per layer: bias, residual, normalization", (len(norms) - 1) / layers, "- the tool's:", skips)  # 1: the embeddings'
print("attention blocks fused by the tool, per layer:", optimizer_found["Attention"] / layers)

# %% [markdown]
# ## Does it pay?
#
# Far fewer operators, less memory moved, the same results. Everybody recommends it. Commit yourself before you look.

# %%
predict(
    "fusion_pays",
    "A batch of 32 sentences in floats: compared with the file as recorded, the fused file is",
    choices=["at least 10 % faster", "about as fast", "at least 10 % slower"],
)

# %%
import course_lib.deploy.fair as library

floats = {name: engines[name] for name in ("ONNX Runtime", "ONNX Runtime, fused")}
batch_times = take_turns({name: (lambda e=e: e(ids, mask)) for name, e in floats.items()}, rounds=pick(15, 4))
gain = library.speedup(batch_times["ONNX Runtime"], batch_times["ONNX Runtime, fused"], warm_up=2)
VERDICTS = {True: "at least 10 % faster", False: "at least 10 % slower"}
reveal("fusion_pays", measured="about as fast" if 0.9 < gain < 1.1 else VERDICTS[gain > 1])
prose(f"Ratio of the times, recorded by fused: {gain:.2f}.")

# %% [markdown]
# Whatever your machine says, do not argue with it: look where the time goes. ONNX Runtime can write down how long each operator took.

# %%
from course_lib.deploy.graphs import operator_times
from course_lib.show.timing import time_by_operator

feed, runs = {"input_ids": ids, "attention_mask": mask}, pick(8, 2)
by_operator = {
    "as recorded": operator_times(FOLDER / "plain.onnx", feed, runs),
    "fused": operator_times(FOLDER / "fused.onnx", feed, runs),
    "fused, int8": operator_times(FOLDER / "int8.onnx", feed, runs),
}
NORMS = {"LayerNormalization": "LayerNorm + Add", "Add": "LayerNorm + Add"}  # what SkipLayerNorm does in one
shown = {}
for way, spent in by_operator.items():
    shown[way] = dict.fromkeys(NORMS.values(), 0.0)
    for op, ms in spent.items():
        shown[way][NORMS.get(op, op)] = shown[way].get(NORMS.get(op, op), 0.0) + ms
time_by_operator(shown, most=6, always=["LayerNorm + Add", "SkipLayerNormalization"])

# %%
norm_now = by_operator["fused"].get("SkipLayerNormalization", 0.0)
norm_before = shown["as recorded"]["LayerNorm + Add"]
total = sum(by_operator["fused, int8"].values())
prose(
    f"Residual and normalization as one operator: {norm_now:.1f} ms. As recorded, *all* additions of the model and all normalizations together: "
    f"{norm_before:.1f} ms; the one operator takes {norm_now / norm_before:.1f} times that. In the int8 file this one operator is "
    f"{by_operator['fused, int8'].get('SkipLayerNormalization', 0.0) / total:.0%} of the time inside operators."
)

# %% [markdown]
# Look at SkipLayerNorm: the residual sum and the normalization in one operator. It moves fewer bytes, as the theory says. But how fast an operator is depends on who wrote it: whether its inner loop uses the processor's wide
# registers, whether it shares its work among threads. A fused operator that is written carelessly loses to two that are written well, and the number of nodes tells you nothing about it. So a rewriting is a *setting*, to be tried like any other.

# %% [markdown]
# ## The settings that matter
#
# The cure is to take this one fusion back and to keep the others: a sum, and a normalization. That alone is not enough, because ONNX Runtime rewrites a file *again* when it loads it (the file “as recorded” does not stay as recorded either), and would
# put the two together once more; so it is told not to. Here are the files in int8 with the settings that make a difference, on one sentence and on a batch: how much is rewritten at load, what is left out, and the number of threads.

# %%
export_onnx(student, FOLDER / "mended.onnx")  # fused, then sums and normalizations taken apart again
quantize_onnx(FOLDER / "mended.onnx", FOLDER / "mended_int8.onnx")
quantize_onnx(FOLDER / "plain.onnx", FOLDER / "plain_int8.onnx")
MENDED = {"without": ["SkipLayerNormFusion"]}  # ONNX Runtime's name of the rewriting
settings = {
    "recorded, nothing rewritten": ("plain_int8.onnx", {"level": "none"}),
    "recorded": ("plain_int8.onnx", {}),
    "fused": ("int8.onnx", {}),
    "mended, put together again": ("mended_int8.onnx", {}),
    "mended": ("mended_int8.onnx", MENDED),
    "mended, 2 threads": ("mended_int8.onnx", {**MENDED, "threads": 2}),
}
tuned = {name: TunedEngine(FOLDER / file, **{"threads": 1, **how}) for name, (file, how) in settings.items()}
rounds = {"one sentence": (one, pick(40, 5)), f"batch of {B}": ((ids, mask), pick(12, 4))}
results = {
    what: take_turns({name: (lambda e=e, x=x: e(*x)) for name, e in tuned.items()}, n) for what, (x, n) in rounds.items()
}

# %%
lines = []
for name in settings:
    cells = [(np.median(t[name][2:]), library.speedup(t["fused"], t[name], warm_up=2)) for t in results.values()]
    lines.append(f"| {name} | " + " | ".join(f"{ms:.2f} | {ratio:.2f}×" for ms, ratio in cells) + " |")
head = "| int8 | " + " | ".join(f"{what}, ms | as fast as fused" for what in rounds) + " |"
prose("\n".join([head, "|---" * (1 + 2 * len(rounds)) + "|", *lines]))

# %% [markdown]
# Which row is best may differ between one sentence and a batch, between your processor and another, and between this version of ONNX Runtime and the next. Nobody can tell you the answer in advance; the table took a minute. What ships in this course is “mended”.

# %% [markdown]
# ## What goes wrong in practice: threads that wait for each other
#
# The threads of one call share every operator and wait for each other at its end. By default they wait *awake*: a thread with nothing to do asks again and again whether there is work, because falling asleep and waking up takes
# longer than a small operator. That is fine as long as the processors are theirs. A service, however, runs in several copies, and each copy thinks that the machine is its own: by default ONNX Runtime and PyTorch take as
# many threads as there are processors. So we run as many copies as there are processors, all at once, each answering one sentence after the other.

# %%
predict(
    "threads_of_copies",
    "Each copy takes as many threads as there are processors, instead of one: the copies together answer how many times as many sentences a second?",
    unit="×",
)

# %%
from course_lib.deploy.neighbours import all_at_once
from course_lib.machine import processors

cores = min(processors(), 8)
teams = {"1 thread each": (1, True), f"{cores} threads each": (cores, True), f"{cores} each, which may sleep": (cores, False)}
served = {}
for name, (threads, awake) in teams.items():
    copies = [TunedEngine(FOLDER / "mended_int8.onnx", threads, spinning=awake, **MENDED) for _ in range(cores)]
    calls = [(lambda e=e: e(*one)) for e in copies]
    all_at_once(calls, 5)  # to warm up
    served[name] = all_at_once(calls, pick(150, 10))
per_second = {name: rate for name, (rate, _) in served.items()}
reveal("threads_of_copies", measured=per_second[f"{cores} threads each"] / per_second["1 thread each"])

# %%
lines = [
    f"| {name} | {rate:,.0f} | {np.median(ms):.2f} | {np.quantile(ms, 0.95):.2f} | {max(ms):.1f} |"
    for name, (rate, ms) in served.items()
]
head = f"| {cores} copies at once | answers a second | median ms | 95 % within, ms | slowest, ms |"
prose("\n".join([head, "|---|---|---|---|---|", *lines]))

# %% [markdown]
# A benchmark of one copy on an idle machine never shows this. Count the threads of *all* that runs, not those of one call. For a small model that answers single sentences, one thread for each copy and as many copies as processors
# is the setting to begin with, and the one that others have to beat.

# %% [markdown]
# ## Padding and buckets
#
# A batch is a rectangle. Sentences of 8, 11 and 60 pieces become $3 \times 60$ numbers, and the model computes every one of them; the mask only sees to it that padding does not change the others. What a batch costs is therefore
#
# $$\text{pieces computed} = B \cdot \max_{i \in \text{batch}} \ell_i \;\ge\; \sum_{i \in \text{batch}} \ell_i ,$$
#
# with $\ell_i$ the pieces of sentence $i$. Two habits waste most of it: padding everything to a fixed length, as many tutorials have it, and batches filled in the order in which sentences come.

# %% [markdown]
# ## Exercise: batches with little padding
#
# {{exercise batches_by_length}}


# %% exercise="batches_by_length"
def batches_by_length(lengths: list[int], size: int) -> list[list[int]]:
    """Positions of sentences in as few batches as possible, neighbours in length together.

    Args:
        lengths: word pieces of each sentence.
        size: sentences that a batch holds at most.
    Returns:
        A list of positions for each batch; every position is in one of them, and only one batch may be smaller.

    >>> batches_by_length([3, 9, 4, 8, 2], size=2)
    [[1, 3], [2, 0], [4]]
    """
    ### BEGIN SOLUTION
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])  # longest first
    return [order[i : i + size] for i in range(0, len(order), size)]
    ### END SOLUTION


# %% check="batches_by_length"
check("batches_by_length", batches_by_length)

# %% [markdown]
# Stuck? `hint("batches_by_length")` gives one step at a time.

# %%
batches_by_length = use("batches_by_length", batches_by_length)

# %% [markdown]
# Positions, not lengths and not sentences: the predictions of a batch have to find the way back to where their sentences came from. Now your batches against the two habits, at several sizes.

# %%
predict(
    "fixed_length",
    "All batches padded to 128 pieces instead of sorted by length: how many times as long at 32 sentences a batch?",
    unit="×",
)

# %%
from course_lib.deploy.buckets import computed_pieces, in_order
from course_lib.show.timing import cost_of_padding

FIXED, SIZES = max(128, max(lengths)), (1, 4, 16, 32)
own = lengths[: pick(192, 64)]
names = ("padded to 128", "in order, to the longest", "yours, by length")
pieces, per_sentence = ({name: [] for name in names} for _ in range(2))
for size in SIZES:
    arrived, sorted_ones = in_order(len(own), size), batches_by_length(own, size)
    plans = dict(zip(names, [(arrived, FIXED), (arrived, None), (sorted_ones, None)], strict=True))
    work = {name: [padded(batch, fixed) for batch in batches] for name, (batches, fixed) in plans.items()}
    passes = take_turns({name: (lambda w=w: [tuned["mended"](*r) for r in w]) for name, w in work.items()}, rounds=pick(4, 2))
    for name, (batches, fixed) in plans.items():
        pieces[name].append(computed_pieces(own, batches, fixed) / sum(own))
        per_sentence[name].append(float(np.median(passes[name][1:])) / len(own))
cost_of_padding(SIZES, per_sentence, pieces)

# %%
at = SIZES.index(32)
reveal("fixed_length", measured=per_sentence["padded to 128"][at] / per_sentence["yours, by length"][at])

# %%
prose(
    f"At {SIZES[at]} sentences a batch, of every 100 pieces computed {100 - 100 / pieces['in order, to the longest'][at]:.0f} are padding in order of "
    f"arrival, {100 - 100 / pieces['yours, by length'][at]:.0f} in your batches. Time per sentence: {per_sentence['in order, to the longest'][at]:.2f} ms against "
    f"{per_sentence['yours, by length'][at]:.2f} ms."
)

# %% [markdown]
# The two panels look alike, and that is the point: on a processor a padded piece costs at least as much as a real one. (It costs more where rows get long: attention has $L \times L$ scores for each head, so a row three times as long
# has nine times as many.) A service cannot wait for thousands of sentences to sort; it keeps a few **buckets** (up to 16 pieces, up to 32, …) and sends a
# bucket off when it is full or its oldest sentence has waited long enough. And note the left end of the lines: on a processor, unlike on a GPU, a batch of one is not much dearer per sentence than a batch of 32.

# %% [markdown]
# ## How many times as fast?
#
# You have now seen many ratios. How were they taken? Three rules, each against one way to fool yourself:
#
# 1. **Warm up.** The first calls find memory, load code and data into caches, and sometimes compile. They are real, but they happen once.
# 2. **Take turns**: A B A B A B, never A A A B B B. Machines get slower and faster for minutes at a time: neighbours, heat, other notebooks.
# 3. **Compare within a round, and take the median.** What happened during a round happened to both. A mean belongs to its worst outlier.

# %% [markdown]
# ## Exercise: a ratio that survives a busy machine
#
# {{exercise speedup}}


# %% exercise="speedup"
def speedup(slow: list[float], fast: list[float], warm_up: int) -> float:
    """How many times as fast ``fast`` is: the median over rounds of the ratio of the two times of the same round.

    Args:
        slow, fast: milliseconds of the two contenders, a time for each round in which they took turns.
        warm_up: so many first rounds do not count.
    Returns:
        Above 1 when ``fast`` is faster.

    >>> speedup([90.0, 8.0, 9.0, 8.0], [5.0, 4.0, 3.0, 4.0], warm_up=1)
    2.0
    """
    ### BEGIN SOLUTION
    ratios = sorted(a / b for a, b in zip(slow[warm_up:], fast[warm_up:], strict=True))
    middle = len(ratios) // 2
    return (ratios[middle] + ratios[-1 - middle]) / 2  # of an even number of them: half way between the two
    ### END SOLUTION


# %% check="speedup"
check("speedup", speedup)

# %% [markdown]
# Stuck? `hint("speedup")` gives one step at a time.

# %%
speedup = use("speedup", speedup)

# %% [markdown]
# To see what taking turns is good for, we ask once more how the fused file compares with the recorded one on a batch, and each time other work starts half way through: once one after the other, once in turns.

# %%
from course_lib.deploy.neighbours import half_disturbed
from course_lib.show.timing import calls_in_time

pair = {name: (lambda e=e: e(ids, mask)) for name, e in floats.items()}
panels, shaded = {}, {}
for title, turns in (("one after the other", False), ("taking turns", True)):
    panels[title], shaded[title] = half_disturbed(pair, rounds=pick(12, 4), turns=turns, neighbours=cores)
calls_in_time(panels, shaded)

# %%
recorded_one, fused_one = pair
ratio = {
    title: speedup(*([ms for _, ms in calls[name]] for name in (recorded_one, fused_one)), warm_up=1)
    for title, calls in panels.items()
}
prose(
    f"As fast as the recorded file is the fused one: {gain:.2f}× when nothing else ran, "
    + "; ".join(f"{r:.2f}× {title}" for title, r in ratio.items())
    + "."
)

# %% [markdown]
# ## A benchmark that lies
#
# A colleague compares the teacher in PyTorch with the int8 student, and writes down every call. Read the code. Nothing in it is forged; each line could stand in a pull request. How many things are not fair?

# %%
from course_lib.deploy.kinds import load

T, S = "teacher, PyTorch", "student, int8"
tokenizers = {T: load_tokenizer(trained.teacher()), S: tokenizer}
by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
long, short = by_length[-pick(24, 8) :], by_length[: pick(256, 64)]
log, called = [], set()


def record(contender, engine, positions, threads, tokenize=False):
    """One call, timed and written down."""
    sentences = [corpus.test[windows[i].sentence].words for i in positions]
    start = time.perf_counter()
    batch = collate(make_windows(sentences, tokenizers[contender]), 0)
    tokenized = time.perf_counter()
    if not tokenize:
        start = tokenized
    engine(*batch)
    ms, warm_up = 1000 * (time.perf_counter() - start), contender not in called
    call = {"sentences": tuple(positions), "threads": threads, "ms": ms, "tokenizing_ms": 1000 * (tokenized - start)}
    log.append({"contender": contender, "warm_up": warm_up, **call})
    called.add(contender)


# %%
in_pytorch = load("pytorch", str(trained.teacher()), 1)
for i in long:
    record(T, in_pytorch, [i], threads=1, tokenize=True)
for i in long:  # "for completeness"
    record(S, tuned["mended"], [i], threads=1)
for first in range(0, len(short), 32):
    record(S, tuned["mended, 2 threads"], short[first : first + 32], threads=2)

# %%
headline = np.mean([r["ms"] for r in log if r["contender"] == T]) / min(
    r["ms"] / len(r["sentences"]) for r in log if r["contender"] == S
)
prose(f"**“The int8 student is {headline:.0f} times as fast as the teacher.”**")

# %%
predict("fair_ratio", "Same sentences, same threads, no warm-up, no tokenizing: how many times as fast is it?", unit="×")

# %% [markdown]
# ## Exercise: a benchmark put right
#
# {{exercise fair_times}}
#
# All that is needed is in the log. A **setting** is what both sides must share to be comparable: the very same sentences in one call, and the same number of threads.


# %% exercise="fair_times"
def fair_times(records: list[dict]) -> dict[str, float]:
    """What raw records of a benchmark say when like is compared with like.

    Args:
        records: one for each call: {"contender": name, "sentences": a tuple of their numbers, "threads", "warm_up":
            bool, "ms": of the call, "tokenizing_ms": the part of it that went to tokenizing, 0.0 if that was
            done beforehand}.
    Returns:
        Contender → median milliseconds per sentence, without tokenizing, of its calls that are no warm-up and have a
        setting (sentences and threads) under which every contender was called (not counting warm-ups).

    >>> call = {"sentences": (7,), "threads": 1, "warm_up": False, "tokenizing_ms": 0.0}
    >>> fair_times([{**call, "contender": "a", "ms": 8.0}, {**call, "contender": "b", "ms": 2.0}, {**call, "contender": "b", "ms": 0.1, "threads": 4}])
    {'a': 8.0, 'b': 2.0}
    """
    ### BEGIN SOLUTION
    import statistics

    counted = [r for r in records if not r["warm_up"]]
    settings = {}
    for r in counted:
        settings.setdefault(r["contender"], set()).add((r["sentences"], r["threads"]))
    common = set.intersection(*settings.values())
    times = {}
    for r in counted:
        if (r["sentences"], r["threads"]) in common:
            times.setdefault(r["contender"], []).append((r["ms"] - r["tokenizing_ms"]) / len(r["sentences"]))
    return {name: statistics.median(own) for name, own in times.items()}
    ### END SOLUTION


# %% check="fair_times"
check("fair_times", fair_times)

# %% [markdown]
# Stuck? `hint("fair_times")` gives one step at a time.

# %%
fair_times = use("fair_times", fair_times)
fair = fair_times(log)
reveal("fair_ratio", measured=fair[T] / fair[S])

# %% [markdown] solution_only=true
# **The unfair points**: the teacher's first call is counted; its time holds the tokenizing, the student's does not; it reads the longest sentences, one by one, the student the shortest in batches; on one thread against two; and a mean is
# divided by a *minimum*. Each of them is small; they multiply.

# %%
prose(
    f"{fair[T]:.2f} against {fair[S]:.2f} ms for a long sentence: {fair[T] / fair[S]:.1f}×, not {headline:.0f}×. Still worth having, and it will still be true next week."
)

# %% [markdown]
# ## What ships
#
# Three files: the graph with its weights, the tokenizer, and a small configuration with the names of the tags. And the packages that read them, which are usually forgotten when somebody speaks of megabytes.

# %%
from course_lib.deploy.footprint import imported_by, installed_bytes

shipped = trained.shipped()
files = {name: (shipped / name).stat().st_size / 1e6 for name in ("model.onnx", "tokenizer.json", "config.json")}
with_torch, without = installed_bytes("torch", "transformers"), installed_bytes("onnxruntime", "tokenizers", "numpy")
prose(
    " + ".join(f"{name} {mb:.1f} MB" for name, mb in files.items())
    + f" = {sum(files.values()):.1f} MB. PyTorch and transformers: {with_torch / 1e6:,.0f} MB; ONNX Runtime, tokenizers and NumPy: {without / 1e6:,.0f} MB."
)

# %% compare=true
print("the shipped model's program imports PyTorch:", "torch" in imported_by("course_lib.deploy.runtime"))

# %% [markdown]
# Now the comparison that counts: both models, in several programs and as their tools make them at one click. Each ran in a process of its own, in turns, on the
# same test sentences; F1 is that of the very outputs that were timed.

# %%
from course_lib.measure.peers_sweep import peer_points, run_again

points, source = peer_points()
lines = [
    f"| {p['model']}, {p['way']} | {p['f1'][0]:.3f} [{p['f1'][1]:.3f}, {p['f1'][2]:.3f}] | {p['megabytes']:.1f} | "
    f"{p['ms_1']:.2f} | {points[0]['ms_1'] / p['ms_1']:.1f}× | {p['ms_32']:.2f} | {points[0]['ms_32'] / p['ms_32']:.1f}× |"
    for p in points
]
prose("\n".join(["| | F1 | MB | ms, batch 1 | | ms, batch 32 | |", "|---|---|---|---|---|---|---|", *lines, "", source]))

# %%
from course_lib.show.timing import f1_and_speed

f1_and_speed(points)

# %% [markdown]
# Read it in two directions. From the teacher to the student in the same program: what pruning and distillation gained. From program to program with the same model: what is there for anybody who
# asks for it. A claim of “so many times faster” that does not say which of the two it means is worth nothing.
#
# And a table is only as good as one's trust in it, so one of its points is run here and now: the shipped model on the test sentences.

# %%
from course_lib.deploy.scoring import score_model

run_again(score_model(shipped, corpus.test, threads=1)["f1"][0])

# %% [markdown]
# ## Your own sentence
#
# This is the shipped folder, and nothing else: text in, entities with their places out. Type a sentence and press Enter.

# %%
from course_lib.deploy.runtime import Runtime
from course_lib.show.entities import entity_box

model = Runtime(shipped, threads=1)
entity_box(
    lambda text: list(model.entities([text])),
    kinds=sorted({tag[2:] for tag in model.tags if tag != "O"}),
    text="Ana Ruiz flew from Lisbon to the Chelsea training ground.",
)

# %% [markdown]
# Try names the training text cannot have held, a name in lower case, a sentence without any. What it gets wrong is the subject of lesson 22.

# %% [markdown]
# ## Questions for reflection

# %%
quiz("sorted_outputs")

# %%
quiz("padded_share")

# %%
quiz("more_threads")

# %% [markdown] open="ship_it" points=2
# **In your own words** (an instructor reads this one): a vendor offers you a converter that makes your model "3× faster with no loss". Which five things would you ask for, or measure yourself, before you believe it?
#
# <!-- BEGIN SOLUTION -->
# For example: (1) faster than *what*, eager PyTorch or a runtime with its defaults; (2) on which sentences, padded how, in which batches; (3) how many threads on which processor, with which instructions; idle or under load; (4) warm-up, turns, medians
# and their spread, and whether tokenizing is inside; (5) "no loss" by which metric on whose test set, with an interval for the *difference*; and the outputs must be those of the timed runs. Also: bytes with tokenizer and packages, and what happens when an operator is not supported.
# <!-- END SOLUTION -->

# %% [markdown]
# ## In five lines
#
# 1. An exported model is a recorded list of operators. Check that it computes the same, on lengths that were not recorded, before you time it.
# 2. Operators may be fused when nobody else reads what is between them. Whether it pays is a measurement: fewer nodes are not less time.
# 3. Count the threads of everything that runs: one for each copy is where to begin.
# 4. Padding costs as much as text. Sort or bucket by length, and put the predictions back in place.
# 5. Warm up, take turns, compare within rounds, take medians, and compare like with like.
#
# **Sources.** Ivanov et al., *Data Movement Is All You Need*, 2020, arXiv 2007.00072. Niu et al., *DNNFusion*, 2021, arXiv 2108.13342. Khomenko et al., *Accelerating recurrent neural network training using sequence bucketing and
# multi-GPU data parallelization*, 2017, arXiv 1708.05604. Zafrir et al., *Q8BERT*, 2019, arXiv 1910.06188. Mytkowicz et al., *Producing Wrong Data Without Doing Anything Obviously Wrong!*, ASPLOS 2009. Georges et al., *Statistically Rigorous Java
# Performance Evaluation*, OOPSLA 2007.
