"""Which variants of model files there are to try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from tests.hidden_constants import FORMS as CONSTANT_FORMS
from tests.variants import AXES, BOXES, IR, JOINT, KINDS, PAIRS, QUANTISERS, SCORES, TRICKS, Variant


def _possible(variant: Variant) -> bool:
    if variant.opset < 10 and variant.quantiser:
        return False
    flat = variant.form in ("joint-flat", "joint-flat-planar", "pairs-chw", "pairs-hwc", "pairs-flat")
    if flat and variant.axes not in ("static", "undeclared"):
        return False
    if variant.quantiser and (variant.kind != "float" or variant.trick.startswith("ort-")):
        return False
    return not (variant.kind == "half" and variant.opset < 10)


def corpus() -> Iterator[Variant]:
    """All variants: every form with every kind of scores, and each other difference with several forms."""
    seen, plain = set(), Variant()
    some = [replace(plain, form=form) for form in ("joint", "boxes-first", "pairs-nchw", "pairs-rows", "distances")]
    groups: list[Iterator[Variant]] = [
        (replace(plain, form=f, scores=s) for f, s in product((*JOINT, *PAIRS, *BOXES), SCORES)),
        (replace(one, opset=o, axes="static") for one, o in product(some, (9, 10, 11, 13, 15, 18, 21))),
        (replace(one, axes=a) for one, a in product([replace(plain, form=f) for f in (*JOINT, *PAIRS, *BOXES)], AXES)),
        (replace(one, kind=k, axes="static") for one, k in product(some, KINDS)),
        (replace(one, quantiser=q, opset=o) for one, q, o in product(some[:3], QUANTISERS, (11, 17))),
        (
            replace(one, quantiser=q, trick=f"const-{c}")
            for one, q, c in product(some[:1], QUANTISERS[:4], CONSTANT_FORMS)
        ),
        (replace(one, trick=t) for one, t in product(some, TRICKS)),
        (replace(plain, form=f, trick="ir") for f in (*JOINT, *PAIRS, *BOXES)),
        (replace(one, trick=t, axes=a) for one, t, a in product(some, IR, ("static", "batch", "all"))),
        (replace(one, trick="ir", quantiser=q) for one, q in product(some[:3], ("qdq-u8", "qdq-s8", "nncf"))),
        (
            replace(plain, form=f, labels=16, scores=s)
            for f, s in product(("joint", "boxes-first", *PAIRS), ("sigmoid", "logits"))
        ),
        (
            replace(plain, form=f, activation=a)
            for f, a in product(("joint", "pairs-nchw"), ("Relu", "HardSwish", "Elu"))
        ),
        (replace(plain, form=f, family="nanodet-plus") for f in (*JOINT, *PAIRS, *BOXES)),
    ]
    for variant in (variant for group in groups for variant in group):
        flat = variant.form in ("joint-flat", "joint-flat-planar", "pairs-chw", "pairs-hwc", "pairs-flat")
        variant = replace(variant, axes="static") if flat and variant.axes == "batch" else variant
        if _possible(variant) and variant not in seen:
            seen.add(variant)
            yield variant
