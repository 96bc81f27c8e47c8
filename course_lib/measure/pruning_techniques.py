"""The pruning rows of the technique table: every way to choose what goes, beside plain magnitude at equal bytes.

All rows prune the linear layers of the encoder and leave embeddings and classifier as they are.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from course_lib.measure.technique_bench import Bench, freeze_words
from course_lib.measure.technique_bytes import Made, payload_bytes
from course_lib.measure.technique_row import Make, Technique, recovered
from course_lib.models.surgery import encoder_layers, layer_names
from course_lib.plan import match
from course_lib.pruning.adaptive import prune_within
from course_lib.pruning.apply import Prune, apply
from course_lib.pruning.masks import Masks
from course_lib.pruning.movement import Movement
from course_lib.pruning.one_shot import SparseGpt, Wanda, apply_sparsegpt, apply_wanda
from course_lib.pruning.proximal import proximal_groups, proximal_steps
from course_lib.pruning.schedules import cubic
from course_lib.pruning.structure import best_units
from course_lib.pruning.tree import module_tree, prune_tree
from course_lib.pruning.tree_costs import first_order_costs
from course_lib.pruning.unit_masks import compact, encoder_groups, mask_by_plan, mask_layers
from course_lib.pruning.unit_scores import group_taylor_scores
from course_lib.report import parameter_count

ENCODER = "*encoder.layer.*"
STRENGTHS = (0.5, 0.7, 0.9)
RECOVERED = 0.7  # the strength at which a short training is tried
LEAVES = 12  # groups of feed-forward neurons in a layer of the module tree
LOST = 0.01  # F1 that the adaptive pruner may lose, on the sentences it sees
LAMBDA = 1e-4  # of L1 training: near the root mean square of a weight's gradient, so that most small weights go in one pass


def weights(score: str, sparsity: float | tuple[int, int], layout: str = "bitmask", **options: object) -> Make:
    """Zero the weights with the lowest scores, by :func:`course_lib.pruning.apply.apply`."""

    def make(model: nn.Module, bench: Bench) -> Made:
        losses = None if score == "magnitude" else bench.losses(model, 1 if score == "fisher" else 16)  # Fisher: per example
        return _masked(model, apply(model, {ENCODER: Prune(sparsity, score, **options)}, losses)[0], layout)

    return make


def wanda(sparsity: float | tuple[int, int], layout: str = "bitmask") -> Make:
    """Wanda, layer by layer."""
    return lambda model, bench: _masked(model, apply_wanda(model, {ENCODER: Wanda(sparsity)}, bench.batches())[0], layout)


def sparse_gpt(sparsity: float | tuple[int, int], layout: str = "bitmask") -> Make:
    """SparseGPT, layer by layer."""
    return lambda model, bench: _masked(
        model, apply_sparsegpt(model, {ENCODER: SparseGpt(sparsity)}, bench.batches())[0], layout
    )


def movement(sparsity: float) -> Make:
    """Movement pruning while the short training lasts: cubic to the sparsity in three quarters of it."""

    def make(model: nn.Module, bench: Bench) -> Made:
        moving = Movement(model, {ENCODER: "weight"})

        def prune(done: int, steps: int) -> None:
            moving.prune(cubic(done, max(1, steps * 3 // 4), sparsity))

        bench.train(model, before_step=moving.accumulate, after_step=prune)
        return _masked(model, moving.finish()[0])

    return make


def l1_training(sparsity: float, lam: float = LAMBDA) -> Make:
    """Proximal steps of ``lam·‖w‖₁`` while the short training lasts, then the smallest weights of all layers together."""

    def make(model: nn.Module, bench: Bench) -> Made:
        freeze_words(model, bench.settings)
        groups = proximal_groups(model, {ENCODER: lam})
        optimizer = torch.optim.AdamW(groups, lr=bench.settings.learning_rate, weight_decay=0.0)
        handle = proximal_steps(optimizer)
        bench.train(model, optimizer)
        handle.remove()
        found = match(model, {ENCODER: None}).found.values()
        zeros = sum(int((m.weight == 0).sum()) for m, _ in found) / sum(m.weight.numel() for m, _ in found)
        masks, _ = apply(model, {ENCODER: Prune(sparsity, scope="global")})
        made = _masked(model, masks)
        made.note += f"; {zeros:.1%} were zero after training"
        return made

    return make


def units(kind: str, sparsity: float, data_free: bool = False) -> Make:
    """Remove heads or feed-forward neurons, the same share of each layer, by first-order scores (or by weights alone)."""

    def make(model: nn.Module, bench: Bench) -> Made:
        groups = encoder_groups(model)
        scores = None if data_free else group_taylor_scores(model, bench.losses(model), groups).absolute
        mask_by_plan(model, {f"*.{kind}": sparsity}, scores)
        return _compacted(model)

    return make


def layers(sparsity: float, data_free: bool = False) -> Make:
    """Remove whole layers by first-order scores (or the last ones); at least one stays."""

    def make(model: nn.Module, bench: Bench) -> Made:
        names, count = layer_names(model), len(encoder_layers(model))
        scores = -torch.arange(count, dtype=torch.float32)
        if not data_free:
            found = group_taylor_scores(model, bench.losses(model), [], layers=True).absolute
            scores = torch.cat([found[name] for name in names])
        mask_layers(model, best_units(scores, max(1, count - round(sparsity * count))).tolist())
        return _compacted(model)

    return make


def tree(sparsity: float) -> Make:
    """The module tree, subtree by subtree, until this share of the layers' parameters is gone, by first-order costs."""

    def make(model: nn.Module, bench: Bench) -> Made:
        inside, neurons = parameter_count(encoder_layers(model)), max(1, model.config.intermediate_size // LEAVES)
        rounds = prune_tree(
            model,
            module_tree(model, neurons),
            first_order_costs(bench.losses),
            parameter_count(model) - round(sparsity * inside),
        )
        made = _compacted(model)
        made.note += f"; {len(rounds)} rounds"
        return made

    return make


def adaptive(model: nn.Module, bench: Bench) -> Made:
    """Magnitude as far as F1 on a few validation sentences allows, layer by layer."""

    def plan(sparsities: dict[str, float]) -> dict[str, Prune]:
        return {f"*{layer}.*": Prune(sparsity) for layer, sparsity in sparsities.items()}

    adapted = prune_within(
        model, lambda copy, sparsities: apply(copy, plan(sparsities)), bench.metric, LOST, layer_names(model)
    )
    chosen = adapted.log[adapted.trial].sparsities
    made = _masked(model, apply(model, plan(chosen))[0])
    made.note += f"; by layer: {', '.join(f'{s:.3g}' for s in chosen.values())}; {len(adapted.log)} trials"
    return made


def magnitude_as_small_as(other: Make) -> Make:
    """Plain magnitude pruning to the bytes that another technique reaches.

    A bitmask costs ``ceil(n/8)``, so ``kept = (bytes − fixed bytes)/4`` weights stay, the same share of each layer.

    Args:
        other: a technique whose bytes do not depend on its scores; it is run on a copy.
    """

    def make(model: nn.Module, bench: Bench) -> Made:
        target = payload_bytes(other(copy.deepcopy(model), bench))
        sizes = [m.weight.numel() for m, _ in match(model, {ENCODER: None}).found.values()]
        fixed = payload_bytes(Made(model)) - 4 * sum(sizes) + sum(-(-n // 8) for n in sizes)
        return weights("magnitude", 1 - (target - fixed) / 4 / sum(sizes))(model, bench)

    return make


def _masked(model: nn.Module, masks: Masks, layout: str = "bitmask") -> Made:
    return Made(model, masks, layout, f"{masks.sparsity:.1%} of {sum(m.numel() for m in masks.values()):,} weights are zero")


def _compacted(model: nn.Module) -> Made:
    return Made(model, note=str(compact(model)).splitlines()[0])


def keep_zeros(made: Made) -> Callable[[int, int], None] | None:
    """For a training: put the zeros of a pruned model back after each step."""
    masks = Masks(made.masks) if made.masks else None
    return None if masks is None else lambda done, steps: masks.apply(made.model)


def rows() -> list[Technique]:
    """All pruning rows, each after the plain one it is compared with."""
    found: list[Technique] = []

    def add(slug: str, method: str, strength: str, make: Make, plain: str | None = None, trained: bool = False) -> None:
        found.append(Technique(slug, method, "pruning", strength, make, plain, trained))

    for s in STRENGTHS:
        n, asked = round(100 * s), f"{s:.0%}"
        even, trained = f"magnitude-layer-{n}", f"magnitude-layer-{n}+recovery"
        add(even, "magnitude, per layer", asked, weights("magnitude", s))
        add(f"magnitude-global-{n}", "magnitude, one threshold", asked, weights("magnitude", s, scope="global"), even)
        for score in ("gradient", "taylor", "fisher"):
            add(f"{score}-{n}", f"{score} scores", asked, weights(score, s), even)
        add(f"wanda-{n}", "Wanda", asked, wanda(s), even)
        add(f"sparsegpt-{n}", "SparseGPT", asked, sparse_gpt(s), even)
        l2_rows = weights("magnitude", s, "rows", granularity="channel", norm=2)
        structured = {
            "rows-l2": ("rows, L2 norm", l2_rows, l2_rows),
            "neurons": ("feed-forward neurons, Taylor", units("neurons", s), units("neurons", s, data_free=True)),
            "heads": ("attention heads, Taylor", units("heads", s), units("heads", s, data_free=True)),
            "layers": ("whole layers, Taylor", layers(s), layers(s, data_free=True)),
        }
        for slug, (method, make, twin) in structured.items():
            add(f"magnitude-as-{slug}-{n}", f"magnitude, bytes of {slug}", asked, magnitude_as_small_as(twin))
            add(f"{slug}-{n}", method, asked, make, f"magnitude-as-{slug}-{n}")
        add(f"magnitude-as-tree-{n}", "magnitude, bytes of tree", asked, magnitude_as_small_as(tree(s)))
        add(f"tree-{n}", "module tree, Taylor", asked, tree(s), f"magnitude-as-tree-{n}")
        add(trained, "magnitude, per layer", asked, recovered(weights("magnitude", s), keep_zeros), None, trained=True)
        add(f"movement-{n}", "movement", asked, movement(s), trained, trained=True)
        add(f"l1-training-{n}", "L1 in training", asked, l1_training(s), trained, trained=True)
    even = "magnitude-as-adaptive"
    add(even, "magnitude, bytes of adaptive", "F1 −1 point", magnitude_as_small_as(adaptive))
    add("adaptive", "magnitude, by layer, within a budget", "F1 −1 point", adaptive, even)
    two_four = weights("magnitude", (2, 4), "2:4")
    add("magnitude-2:4", "magnitude", "2:4", two_four)
    add("wanda-2:4", "Wanda", "2:4", wanda((2, 4), "2:4"), "magnitude-2:4")
    add("sparsegpt-2:4", "SparseGPT", "2:4", sparse_gpt((2, 4), "2:4"), "magnitude-2:4")
    for t in list(found):
        again = t.strength in (f"{RECOVERED:.0%}", "2:4") and not t.trained
        if again and f"{t.name}+recovery" not in {f.name for f in found}:
            plain = t.plain and f"{t.plain}+recovery"
            add(f"{t.name}+recovery", t.method, t.strength, recovered(t.make, keep_zeros), plain, trained=True)
    return found
