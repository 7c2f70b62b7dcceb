"""Finds pictures that are the same, or look alike, without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

MOST_BITS = 7
"""Differing bits, of 64, up to which two hashes are of pictures that look alike.

Of 192 COCO pictures saved as JPEG at quality 40, scaled, brightened or with noise, 98 % and more are within it of the
original; different ones differ in 18 bits and more in one of their two hashes.
"""

_BAND_BITS = 16
_BANDS = 64 // _BAND_BITS  # MOST_BITS < 2 * _BANDS, so two similar hashes have a band with at most one differing bit
_MASKS = [0, *(1 << bit for bit in range(_BAND_BITS))]
_REACH = 16
"""Neighbours, to each side, that a hash is compared with among those of its bits in a band: bounds what thousands of
frames of one scene cost, which all look alike."""

_PAIRS_AT_ONCE = 1 << 20
_BITS = np.array([number.bit_count() for number in range(256)], np.uint8)

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def nearest_earlier(hashes: Hashes, groups: npt.NDArray[np.int64], num_groups: int) -> Indices:
    """Returns the first similar picture of each picture in every group.

    Two pictures are similar where both of their hashes differ in at most `MOST_BITS` bits.

    Args:
        hashes: (N, 2) uint64.
        groups: (N,) int64, the group of each picture, 0 to `num_groups` - 1.
        num_groups: number of groups, such as splits.

    Returns:
        (N, num_groups) int64, the least index of a picture in the group that is similar or the picture itself; N for
        none.
    """
    count = len(hashes)
    if not count:
        return np.zeros((0, num_groups), np.int64)
    distinct, inverse = np.unique(hashes, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    own = np.full((len(distinct), num_groups), count, np.int64)
    np.minimum.at(own, (inverse, groups), np.arange(count))
    near = own.copy()
    for left, right in _similar_pairs(distinct):
        begins = np.flatnonzero(np.diff(left, prepend=-1))
        rows = left[begins]
        near[rows] = np.minimum(near[rows], np.minimum.reduceat(own[right], begins, axis=0))
    return near[inverse]


def _similar_pairs(distinct: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Yields pairs of indices of similar hashes, the first ones ascending, both ways; a pair may come again."""
    count = len(distinct)
    numbers = np.arange(count)
    for band in range(_BANDS):
        keys = (distinct[:, 0] >> np.uint64(band * _BAND_BITS) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        edges = np.searchsorted(keys[order], np.arange((1 << _BAND_BITS) + 1))
        places = (keys * count + numbers)[order]
        for mask in _MASKS:
            wanted = keys ^ mask
            middle = np.searchsorted(places, wanted * count + numbers)
            starts = np.maximum(edges[wanted], middle - _REACH)
            ends = np.minimum(edges[wanted + 1], middle + _REACH + 1)
            for left, right in _pairs(starts, ends):
                yield from _similar(left, order[right], distinct)


def _pairs(starts: Indices, ends: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Yields each row beside each number from its start to its end, some rows at once."""
    counts = ends - starts
    totals = np.cumsum(counts)
    row = 0
    while row < len(counts):
        before = totals[row] - counts[row]
        last = max(row + 1, int(np.searchsorted(totals, before + _PAIRS_AT_ONCE, "right")))
        part = counts[row:last]
        left = np.repeat(np.arange(row, last), part)
        inner = np.arange(len(left)) - np.repeat(np.cumsum(part) - part, part)
        yield left, starts[left] + inner
        row = last


def _similar(left: Indices, right: Indices, distinct: Hashes) -> Iterator[tuple[Indices, Indices]]:
    others = left != right
    left, right = left[others], right[others]
    for column in (0, 1):
        differing = np.ascontiguousarray(distinct[left, column] ^ distinct[right, column])
        bits = _BITS[differing.view(np.uint8)].reshape(-1, 8).sum(1)
        left, right = left[bits <= MOST_BITS], right[bits <= MOST_BITS]
    if len(left):
        yield left, right


def first_of_each(keys: Sequence[bytes], groups: npt.NDArray[np.int64], num_groups: int) -> Indices:
    """Returns what `nearest_earlier` does for equal keys; an empty key equals none."""
    count = len(keys)
    first: dict[bytes, list[int]] = {}
    for index, (key, group) in enumerate(zip(keys, groups.tolist(), strict=True)):
        places = first.setdefault(key, [count] * num_groups)
        places[group] = min(places[group], index)
    none = [count] * num_groups
    return np.array([first[key] if key else none for key in keys], np.int64).reshape(count, num_groups)
