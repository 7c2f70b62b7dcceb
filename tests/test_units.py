"""Lengths of time, sizes, and what of a recording is kept, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.units import parse_bytes, parse_milliseconds, parse_seconds
from streamer.sinks.options import Retention

NUMBERS = st.integers(1, 9000)  # with TB still exact
SPACES = st.sampled_from(["", " ", "  "])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("24h", 86_400),
        ("7d", 604_800),
        ("45", 45),
        ("0.5", 0.5),
        ("1.5 h", 5400),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("1d 2h", 93_600),
    ],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(("text", "milliseconds"), [("5", 5), ("0", 0), ("5ms", 5), ("1.5s", 1500)])
def test_a_bare_number_may_be_milliseconds(text: str, milliseconds: float) -> None:
    assert parse_milliseconds(text) == pytest.approx(milliseconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("50GB", 50 * 10**9), ("1.5TiB", 3 * 2**39), ("2 kib", 2048), ("7kB", 7000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size
    assert isinstance(parse_bytes(text), int)


@given(NUMBERS, st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("", 1)]), SPACES, SPACES)
def test_any_number_with_a_unit_is_a_length(number: int, unit: tuple[str, int], gap: str, around: str) -> None:
    assert parse_seconds(f"{around}{number}{gap}{unit[0]}{around}") == number * unit[1]


@given(NUMBERS, st.sampled_from([("kb", 10**3), ("MB", 10**6), ("Gb", 10**9), ("TB", 10**12), ("MiB", 2**20)]), SPACES)
def test_any_number_with_a_unit_is_a_size(number: int, unit: tuple[str, int], gap: str) -> None:
    assert parse_bytes(f"{number}{gap}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1s", "s", "1w", "10M", "24H", "1e3", "inf", "nan", "1:30", "9" * 400]
)
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(ValueError, match="wanted a length of time such as 90s, 10m or 24h"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["", "0GB", "-1GB", "GB", "100", "5G", "0.0001kB", "infGB", "١GB", "9" * 400 + "MB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="wanted a size such as 500MB or 50GB"):
        parse_bytes(text)


@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{0,5} ?[smhdMGTkiB]{0,3}", fullmatch=True))
def test_any_text_is_a_positive_value_or_a_value_error(text: str) -> None:
    for parse in (parse_seconds, parse_bytes):
        try:
            assert 0 < parse(text) < float("inf")
        except ValueError as error:
            assert str(error).startswith("wanted ")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("24h", Retention(age_s=86_400)),
        ("7d", Retention(age_s=604_800)),
        ("50GB", Retention(size_bytes=50 * 10**9)),
        ("500mb", Retention(size_bytes=5 * 10**8)),
        (" 30m ", Retention(age_s=1800)),
        ("20GB-free", Retention(free_bytes=20 * 10**9)),
        ("10%-free", Retention(free_share=0.1)),
        ("30d, 500GB,10%-free", Retention(age_s=30 * 86_400, size_bytes=500 * 10**9, free_share=0.1)),
        ("1TB,folder", Retention(size_bytes=10**12, whole_folder=True)),
    ],
)
def test_ages_and_sizes_to_keep(text: str, kept: Retention) -> None:
    assert Retention.parse(text) == kept


@pytest.mark.parametrize(
    "text", ["", "100", "500M", "50G", "all", "0h", "0GB", "-24h", "24h-free", "0%-free", "100%-free", "10%", "24h,"]
)
def test_what_is_neither_an_age_nor_a_size(text: str) -> None:
    with pytest.raises(
        ValueError,
        match="wanted an age such as 24h, a size such as 50GB, or what stays free, such as 20GB-free or 10%-free",
    ):
        Retention.parse(text)


def test_there_is_a_limit_and_one_of_each_kind() -> None:
    with pytest.raises(ValueError, match="wanted an age, a size, or what stays free"):
        Retention.parse("folder")
    with pytest.raises(ValueError, match="wanted one limit of each kind, got '2GB' beside another"):
        Retention.parse("1GB,2GB")
