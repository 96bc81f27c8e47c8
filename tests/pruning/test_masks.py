"""Masks of an exact sparsity: ties by position, nested, one threshold for all; kept through training, saved in bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.errors import CourseError
from course_lib.granularity import block_size, spread, to_blocks
from course_lib.pruning.bits import pack_bits, unpack_bits
from course_lib.pruning.masks import Masks, block_scores, global_masks, mask_by_sparsity, n_m_mask, sparsity
from course_lib.pruning.scores import magnitude_scores

SCORES = st.lists(st.integers(-3, 6).map(float), min_size=1, max_size=40).map(torch.tensor)  # many ties
FRACTIONS = st.floats(0, 1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_sorting(scores: torch.Tensor, drop: int) -> torch.Tensor:
    """The definition: sort the highest first, the first of equals first, and keep all but the last ``drop``."""
    order = torch.argsort(scores.flatten(), descending=True, stable=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[: scores.numel() - drop]] = True
    return mask.view(scores.shape)


# One tensor


@settings(deadline=None)
@given(SCORES, FRACTIONS)
def test_the_count_is_exact_and_the_first_of_equal_scores_stay(scores, asked):
    mask = mask_by_sparsity(scores, asked)
    drop = round(asked * len(scores))
    assert torch.equal(mask, by_sorting(scores, drop))
    assert sparsity(mask) == drop / len(scores)


@settings(deadline=None)
@given(SCORES, FRACTIONS, FRACTIONS)
def test_masks_nest_as_sparsity_grows(scores, one, other):
    low, high = sorted((one, other))
    assert not (mask_by_sparsity(scores, high) & ~mask_by_sparsity(scores, low)).any()


def test_many_ties_across_pieces_of_a_large_tensor():
    scores = drawn(300, 500).relu().t()  # half of it zeros
    for asked in (0.0, 0.2, 0.5, 0.8, 1.0):
        assert torch.equal(mask_by_sparsity(scores, asked), by_sorting(scores, round(asked * 150_000)))


def test_a_view_a_constant_and_infinities_are_ranked_like_anything_else():
    scores = drawn(6, 8)
    assert torch.equal(mask_by_sparsity(scores.t(), 0.5), mask_by_sparsity(scores.t().contiguous(), 0.5))
    assert mask_by_sparsity(torch.zeros(2, 2), 0.5).tolist() == [[True, True], [False, False]]
    endless = torch.tensor([math.inf, 0.0, -math.inf, 1.0])
    assert mask_by_sparsity(endless, 0.25).tolist() == [True, True, False, True]
    assert mask_by_sparsity(endless, 0.75).tolist() == [True, False, False, False]
    assert mask_by_sparsity(torch.tensor(3.0), 0.4).tolist() is True


@pytest.mark.parametrize("granularity, axis", [("channel", 0), ("channel", 1), (4, 0), ((3, 2), 0), ("tensor", 0)])
@pytest.mark.parametrize("p", [1, 2])
def test_blocks_stay_or_go_whole_by_their_norms(granularity, axis, p):
    w = drawn(6, 8)
    block = block_size(w.shape, granularity, axis)
    mask = mask_by_sparsity(magnitude_scores(w, p), 0.5, granularity, axis)
    norms = to_blocks(w, block).norm(p, dim=1)
    assert torch.equal(mask, spread(by_sorting(norms, round(0.5 * len(norms))), w.shape, block))


def test_scores_of_16_bits_are_added_up_in_fp32():
    scores = torch.ones(1, 4096, dtype=torch.bfloat16)  # in bf16 a sum of ones stops growing at 256
    assert block_scores(scores, "channel").tolist() == [[4096.0]]
    assert block_scores(drawn(2, 4).double(), 2).dtype == torch.float64


@pytest.mark.oracles
@pytest.mark.parametrize("asked", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_torchs_own_pruning_makes_the_same_masks(asked):
    """Without ties, the same weights go; round() of the count is torch's rule too."""
    prune = pytest.importorskip("torch.nn.utils.prune")
    w = drawn(30, 50)
    theirs = prune.L1Unstructured(asked).compute_mask(w, torch.ones_like(w))
    assert torch.equal(mask_by_sparsity(magnitude_scores(w), asked), theirs.bool())
    for axis, p in ((0, 1), (0, 2), (1, 2)):
        theirs = prune.LnStructured(asked, n=p, dim=axis).compute_mask(w, torch.ones_like(w))
        assert torch.equal(mask_by_sparsity(magnitude_scores(w, p), asked, "channel", axis), theirs.bool())


@pytest.mark.parametrize("asked", [-0.01, 1.01, math.nan])
def test_a_sparsity_outside_0_to_1_is_refused(asked):
    with pytest.raises(ValueError, match=r"sparsity = .*: expected a fraction between 0 and 1"):
        mask_by_sparsity(torch.ones(3), asked)


@pytest.mark.parametrize(
    "scores, message",
    [
        (torch.tensor([1.0, math.nan]), "scores = 1 NaN"),
        (torch.ones(0), r"scores = \(0,\): expected at least one entry"),
        (torch.ones(3, dtype=torch.int32), r"scores\.dtype = torch\.int32: expected a floating-point"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores, message):
    for call in (lambda: mask_by_sparsity(scores, 0.5), lambda: n_m_mask(scores, 1, 1)):
        with pytest.raises(ValueError, match=message):
            call()


def test_blocks_that_do_not_divide_the_shape_are_refused():
    with pytest.raises(ValueError, match=r"granularity = \(1, 3\): expected numbers that divide the shape \(6, 8\)"):
        mask_by_sparsity(drawn(6, 8), 0.5, 3)


def test_the_sparsity_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"x = \(0,\): expected at least one entry"):
        sparsity(torch.ones(0))


# Many tensors


@settings(deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=4), FRACTIONS)
def test_global_masks_are_those_of_all_scores_in_a_row(lists, asked):
    """One common threshold: the mask of the joined scores, cut up again."""
    masks = global_masks({str(i): s for i, s in enumerate(lists)}, asked)
    assert torch.equal(torch.cat(list(masks.values())), mask_by_sparsity(torch.cat(lists), asked))


def test_one_threshold_prunes_more_where_scores_are_low():
    scores = {"small": drawn(40, 50).abs(), "large": 3 * drawn(20, 30, seed=1).abs()}
    masks = global_masks(scores, 0.5)
    kept = min(float(scores[n][masks[n]].min()) for n in scores)
    pruned = max(float(scores[n][~masks[n]].max()) for n in scores)
    assert pruned < kept
    assert sparsity(masks["small"]) > 0.5 > sparsity(masks["large"])


def test_rows_of_many_tensors_compete_too():
    scores = {"a": torch.tensor([[1.0, 1.0], [5.0, 0.0]]), "b": torch.tensor([[0.5, 0.5, 0.5], [9.0, 9.0, 9.0]])}
    masks = global_masks(scores, 0.5, "channel")
    assert masks["a"].tolist() == [[False] * 2, [True] * 2] and masks["b"].tolist() == [[False] * 3, [True] * 3]


@pytest.mark.oracles
def test_torchs_global_unstructured_makes_the_same_masks():
    prune = pytest.importorskip("torch.nn.utils.prune")
    layers = {"a": nn.Linear(20, 30), "b": nn.Linear(30, 10), "c": nn.Conv2d(3, 4, 5)}
    ours = global_masks({n: magnitude_scores(m.weight) for n, m in layers.items()}, 0.63)
    prune.global_unstructured([(m, "weight") for m in layers.values()], prune.L1Unstructured, amount=0.63)
    assert all(torch.equal(ours[n], m.weight_mask.bool()) for n, m in layers.items())


def test_no_tensors_and_two_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"scores = \{\}: expected at least one tensor"):
        global_masks({}, 0.5)
    with pytest.raises(ValueError, match="expected one dtype for all"):
        global_masks({"a": torch.ones(2), "b": torch.ones(2).double()}, 0.5)
    with pytest.raises(ValueError, match="b = 1 NaN"):
        global_masks({"a": torch.ones(2), "b": torch.tensor([math.nan])}, 0.5)


# n of every m


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.data())
def test_every_group_keeps_its_n_best(groups, m, data):
    n = data.draw(st.integers(0, m))
    numbers = data.draw(st.lists(st.integers(0, 3).map(float), min_size=2 * groups * m, max_size=2 * groups * m))
    scores = torch.tensor(numbers).view(2, groups * m)
    mask = n_m_mask(scores, n, m)
    for group, kept in zip(scores.view(-1, m), mask.view(-1, m), strict=True):
        assert torch.equal(kept, by_sorting(group, m - n))


def test_groups_of_a_view_lie_along_its_own_rows():
    scores = drawn(8, 6)
    assert torch.equal(n_m_mask(scores.t(), 2, 4), n_m_mask(scores.t().contiguous(), 2, 4))


@pytest.mark.oracles
@pytest.mark.parametrize("zeros, m", [(2, 4), (1, 4), (4, 8)])
def test_torchs_weight_norm_sparsifier_keeps_the_same(zeros, m):
    pruning = pytest.importorskip("torch.ao.pruning")
    model = nn.Sequential(nn.Linear(32, 16))
    ours = n_m_mask(magnitude_scores(model[0].weight), m - zeros, m)
    sparsifier = pruning.WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, m), zeros_per_block=zeros)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    assert torch.equal(ours, model[0].parametrizations.weight[0].mask.bool())


@pytest.mark.parametrize(
    "n, m, message",
    [
        (3, 2, r"n, m = \(3, 2\): expected 0 ≤ n ≤ m"),
        (-1, 4, r"n, m = \(-1, 4\)"),
        (0, 0, r"n, m = \(0, 0\)"),
        (2, 5, "m = 5: expected a number that divides the last dimension, 8"),
    ],
)
def test_impossible_n_and_m_are_refused(n, m, message):
    with pytest.raises(ValueError, match=message):
        n_m_mask(drawn(6, 8), n, m)


# Masks of a model


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def masks_of(model: nn.Module, asked: float = 0.5) -> Masks:
    return Masks({n: mask_by_sparsity(magnitude_scores(model.get_parameter(n)), asked) for n in ("0.weight", "2.weight")})


def test_applying_sets_the_pruned_weights_to_zero_and_no_other():
    model = two_layers()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    masks = masks_of(model, 0.75)
    masks.apply(model)
    for name, p in model.named_parameters():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(p, expected) and p.requires_grad
    assert masks.sparsity == 0.75 and len(masks) == 2
    assert str(masks).splitlines() == [
        "75.0% of 72 weights pruned",
        "0.weight: 75.0% of 48",
        "2.weight: 75.0% of 24",
    ]


def test_even_nan_and_infinity_become_zero():
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, math.nan)
    Masks({"weight": torch.tensor([[False, True]])}).apply(model)
    assert model.weight[0, 0] == 0 and model.weight[0, 1].isnan()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    ],
)
def test_pruned_weights_stay_zero_through_training_until_the_handle_is_removed(make):
    model = two_layers()
    optimizer, masks = make(model.parameters()), masks_of(model)
    x, y = drawn(16, 6), drawn(16, 3, seed=1)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()

    train(2)  # momentum that would carry pruned weights on
    handle = masks.keep(model, optimizer)
    assert all(sparsity(model.get_parameter(n)) == 0.5 for n in masks), "at once, not only after a step"
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(5)
    for name, mask in masks.items():
        p = model.get_parameter(name)
        assert not p[~mask].any() and (p[mask] != before[name][mask]).all()
    handle.remove()
    train(1)
    assert all(sparsity(model.get_parameter(n)) < 0.1 for n in masks)


def test_masks_are_saved_in_bits_and_come_back(tmp_path):
    model = two_layers()
    masks = masks_of(model)
    file = tmp_path / "folder" / "masks.safetensors"
    masks.save(file)
    back = Masks.load(file)
    assert list(back) == list(masks) and all(torch.equal(back[n], masks[n]) for n in masks)
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == 8 + header + 48 // 8 + 24 // 8


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all", "tensors", "short"])
def test_a_file_that_holds_no_masks_is_explained(tmp_path, content):
    from safetensors.torch import save_file

    file = tmp_path / "masks.safetensors"
    if content == "tensors":
        save_file({"w": torch.ones(2)}, file)
    elif content == "short":
        save_file({"w": torch.ones(2, dtype=torch.uint8)}, file, {"masks": '{"w": [3]}'})
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(
        CourseError, match=r"Cannot read masks from .*masks\.safetensors.*Expected a file written by Masks\.save"
    ):
        Masks.load(file)


def test_masks_that_do_not_fit_the_model_change_nothing():
    model = two_layers()
    good, before = masks_of(model), [p.detach().clone() for p in model.parameters()]
    wrong = {
        r"has no parameter '0\.wait'; expected a name like 0\.weight": {"0.wait": good["0.weight"]},
        r"2\.weight has the shape \(3, 8\); expected its mask's, \(8, 6\)": {"2.weight": good["0.weight"]},
    }
    for message, bad in wrong.items():
        with pytest.raises(CourseError, match=message):
            Masks({"0.weight": good["0.weight"], **bad}).apply(model)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_two_masks_for_tied_weights_are_refused_and_one_is_fine():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    mask = mask_by_sparsity(magnitude_scores(model[0].weight), 0.5)
    with pytest.raises(CourseError, match=r"0\.weight and 1\.weight are one tensor; expected one mask"):
        Masks({"0.weight": mask, "1.weight": mask}).apply(model)
    assert sparsity(model[0].weight) == 0
    Masks({"1.weight": mask}).apply(model)
    assert sparsity(model[0].weight) == 0.5


@pytest.mark.parametrize(
    "masks, message",
    [
        ({}, r"masks = \{\}: expected at least one mask"),
        ({"w": torch.ones(2)}, r"masks\['w'\]\.dtype = torch\.float32: expected torch\.bool"),
        ({"w": torch.ones(0, dtype=torch.bool)}, r"masks\['w'\] = \(0,\): expected at least one entry"),
    ],
)
def test_what_is_no_mask_is_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        Masks(masks)


# Bits


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_bits_come_back_and_take_an_eighth(entries):
    mask = torch.tensor(entries, dtype=torch.bool)
    packed = pack_bits(mask)
    assert len(packed) == -(-len(entries) // 8)
    assert torch.equal(unpack_bits(packed, mask.shape), mask)
    assert [bool(packed[i // 8] >> i % 8 & 1) for i in range(len(entries))] == entries


def test_a_views_bits_are_in_the_order_of_its_own_rows():
    mask = drawn(5, 7).t() > 0
    assert torch.equal(unpack_bits(pack_bits(mask), (7, 5)), mask)


@pytest.mark.parametrize(
    "packed, message",
    [
        (torch.zeros(2, dtype=torch.uint8), r"packed = \(2,\): expected 1 bytes for \(3,\)"),
        (torch.zeros(1), r"packed\.dtype = torch\.float32: expected torch\.uint8"),
        (torch.tensor([8], dtype=torch.uint8), "packed = 'bits behind the last entry'"),
    ],
)
def test_damaged_bits_are_refused(packed, message):
    with pytest.raises(ValueError, match=message):
        unpack_bits(packed, (3,))


def test_only_bool_tensors_have_bits_to_pack():
    with pytest.raises(ValueError, match=r"mask\.dtype = torch\.float32: expected torch\.bool"):
        pack_bits(torch.ones(3))
