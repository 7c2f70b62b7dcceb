"""Measuring in a process of its own, so that the figures hold no other measurement's memory, threads or caches."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def isolated(measure: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Returns what `measure`, a module's function, returns in a fresh process; raises what it raises."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments, **options).result()
