"""What `check` found, as text and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from calibration.data.findings import SEVERITIES, Finding
from calibration.data.summary import SplitSummary
from calibration.files import to_json
from streamer.common.errors import counted, one_line

_EXAMPLES = 3
_CLASSES = 20


@dataclass(frozen=True, eq=False)
class CheckReport:
    """All that `check` tells.

    Attributes:
        path: of the data.
        names: of the classes.
        input_wh: the training size.
        findings: the most important first.
        summaries: by split.
    """

    path: str
    names: Sequence[str]
    input_wh: tuple[int, int]
    findings: tuple[Finding, ...]
    summaries: Mapping[str, SplitSummary]

    def count(self, severity: str) -> int:
        """Returns the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_text(self) -> str:
        """Returns the findings by severity, tables of the splits and of the classes, and a last line."""
        lines = []
        for severity in SEVERITIES:
            for finding in self.findings:
                if finding.severity == severity:
                    lines += [*_finding_lines(finding), ""]
        lines += [*_split_table(self.summaries), "", *_class_table(self.names, self.summaries), ""]
        counts = [counted(self.count(severity), severity) for severity in SEVERITIES[:2]]
        return "\n".join([*lines, f"{self.path}: {', '.join(counts)}, {self.count('info')} for information"])

    def to_json(self) -> str:
        """Returns indented JSON of the same content, with more examples."""
        content = {
            "data": self.path,
            "names": list(self.names),
            "size_wh": list(self.input_wh),
            "findings": [asdict(finding) for finding in self.findings],
            "splits": {split: _figures(self.names, summary) for split, summary in self.summaries.items()},
        }
        return to_json(content, indent=2) + "\n"


def _finding_lines(finding: Finding) -> list[str]:
    lines = [f"{finding.severity.upper():<8} {finding.kind} ({finding.count}): {finding.text}"]
    lines += [f"           {example}" for example in finding.examples[:_EXAMPLES]]
    if finding.count > _EXAMPLES:
        lines.append("           ...")
    return lines if finding.remedy == "nothing" else [*lines, f"         > {finding.remedy}"]


def _split_table(summaries: Mapping[str, SplitSummary]) -> list[str]:
    head = ("split", "pictures", "background", "objects", "per picture", "to ignore", "smallest", "median", "largest")
    rows: list[tuple[str, ...]] = [head]
    for split, each in summaries.items():
        per_picture = f"{each.objects / each.pictures:.1f}" if each.pictures else "-"
        numbers = (each.pictures, each.background, each.objects, per_picture, each.ignored)
        rows.append((split, *map(str, numbers), *(_size(size) for size in _sizes(each))))
    return _aligned(rows)


def _class_table(names: Sequence[str], summaries: Mapping[str, SplitSummary]) -> list[str]:
    counts = np.array([each.class_counts for each in summaries.values()]).reshape(-1, len(names))
    rarest = np.argsort(counts[0], kind="stable") if len(counts) else np.arange(0)
    rows: list[tuple[str, ...]] = [("class", *(f"{split}" for split in summaries))]
    for number in rarest[:_CLASSES]:
        rows.append((f"{number} {one_line(names[number])}", *(str(count) for count in counts[:, number])))
    lines = _aligned(rows)
    if len(rarest) > _CLASSES:
        lines.append(f"... and {len(rarest) - _CLASSES} commoner classes: see --json")
    return lines


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _sizes(summary: SplitSummary) -> list[tuple[int, int] | None]:
    """Returns the smallest, median and largest picture by area."""
    sizes = summary.picture_sizes_wh
    if not len(sizes):
        return [None] * 3
    order = np.argsort(sizes.prod(1), kind="stable")
    return [(int(sizes[place][0]), int(sizes[place][1])) for place in (order[0], order[len(order) // 2], order[-1])]


def _size(size_wh: tuple[int, int] | None) -> str:
    return "-" if size_wh is None else f"{size_wh[0]}x{size_wh[1]}"


def _figures(names: Sequence[str], summary: SplitSummary) -> dict[str, object]:
    smallest, median, largest = _sizes(summary)
    sizes = np.sqrt(summary.box_sizes_px.prod(1))
    steps = (0, 5, 25, 50, 75, 95, 100)
    quantiles = np.percentile(sizes, steps).tolist() if len(sizes) else [None] * len(steps)
    return {
        "pictures": summary.pictures,
        "background": summary.background,
        "objects": summary.objects,
        "to_ignore": summary.ignored,
        "picture_sizes_wh": {"smallest": smallest, "median": median, "largest": largest},
        "box_sizes_px_percentiles": dict(zip(map(str, steps), quantiles, strict=True)),
        "classes": [
            {"id": number, "name": name, "objects": objects, "pictures": pictures}
            for number, (name, objects, pictures) in enumerate(
                zip(names, summary.class_counts.tolist(), summary.pictures_with.tolist(), strict=True)
            )
        ],
    }
