"""Tiles of the convolution kernel, and the choice among them for a layer's shape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A variant of source/convolution.cu, by its macros.

    Attributes:
        rows: output pixels of a block.
        columns: output channels of a block.
        depth: bytes of the inner dimension at a time.
        stages: of them in shared memory.
        row_warps: warps that share the rows.
        column_warps: warps that share the columns.
        depth_warps: warps that share the inner dimension.
        patch: whether the part of the picture that a block needs is copied first.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    row_warps: int
    column_warps: int
    depth_warps: int = 1
    patch: bool = False

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.row_warps * self.column_warps * self.depth_warps

    def patch_bytes(self, shape: Shape) -> int:
        """Returns how much shared memory the part of a picture takes that a block's rows need."""
        if not self.patch:
            return 0
        rows = min(shape.height, (self.rows + shape.width - 2) // shape.width + 1)
        pixels = ((rows - 1) * shape.stride + shape.kernel_height) * (
            (shape.width - 1) * shape.stride + shape.kernel_width
        )
        return -(-pixels * shape.units * shape.unit // 128) * 128

    def shared(self, shape: Shape) -> int:
        """Returns the shared memory of a block in bytes: operands, and then sums and results in the same place."""
        stages = self.stages * ((0 if self.patch else self.rows) + self.columns) * self.depth
        sums = 4 * self.depth_warps * self.rows * (self.columns + 4) if self.depth_warps > 1 else 0
        return max(self.patch_bytes(shape) + stages, sums + 2 * self.rows * (self.columns + 8))

    def macros(self, shape: Shape) -> dict[str, int]:
        """Returns what the source is compiled with."""
        found = {
            "ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth, "STAGES": self.stages,
            "ROW_WARPS": self.row_warps, "COLUMN_WARPS": self.column_warps, "DEPTH_WARPS": self.depth_warps,
            "HALF": int(shape.half), "UNIT": shape.unit, "FORM": shape.form, "PLAIN": int(shape.plain),
        }  # fmt: skip
        return found | ({"UNITS_A_TAP": shape.units, "KERNEL": shape.kernel_width} if self.patch else {})

    def __str__(self) -> str:
        kind = "patch" if self.patch else "rows"
        warps = f"{self.row_warps}x{self.column_warps}x{self.depth_warps}"
        return f"{kind}-{self.rows}x{self.columns}x{self.depth}x{self.stages}-{warps}"


_LARGE = (
    Tile(128, 32, 64, 4, 4, 1),
    Tile(256, 32, 64, 4, 4, 1),
    Tile(128, 16, 64, 4, 4, 1),
    Tile(256, 16, 64, 4, 4, 1),
    Tile(128, 64, 64, 4, 2, 2),
    Tile(256, 64, 64, 3, 4, 1),
    Tile(128, 128, 64, 4, 2, 2),
    Tile(128, 128, 64, 4, 2, 4),
    Tile(256, 128, 64, 3, 4, 2),
)
_MEDIUM = (
    Tile(64, 64, 64, 4, 2, 2),
    Tile(64, 64, 128, 4, 2, 2, 2),
    Tile(64, 32, 128, 4, 2, 1, 4),
    Tile(32, 64, 128, 4, 1, 2, 4),
    Tile(32, 32, 128, 6, 1, 1, 4),
)
_SMALL = (
    Tile(32, 32, 256, 5, 1, 1, 8),
    Tile(32, 16, 256, 6, 1, 1, 8),
    Tile(16, 32, 256, 6, 1, 1, 8),
    Tile(16, 16, 256, 8, 1, 1, 8),
)
_PATCH_LARGE = (
    Tile(128, 32, 128, 3, 4, 1, patch=True),
    Tile(256, 32, 128, 3, 4, 1, patch=True),
    Tile(256, 16, 128, 3, 4, 1, patch=True),
    Tile(128, 64, 128, 3, 2, 2, patch=True),
    Tile(256, 64, 128, 3, 4, 1, patch=True),
    Tile(128, 128, 128, 3, 2, 2, patch=True),
    Tile(256, 128, 128, 3, 4, 2, patch=True),
)
_PATCH_SMALL = (
    Tile(64, 64, 128, 4, 2, 2, 2, patch=True),
    Tile(64, 32, 128, 4, 2, 1, 4, patch=True),
    Tile(32, 32, 256, 4, 1, 1, 8, patch=True),
    Tile(16, 32, 256, 5, 1, 1, 8, patch=True),
)
_MANY_ROWS, _FEW_ROWS = 8192, 4096
_MOST_SHARED = 200 << 10
_INPUT_TILES = (Tile(128, 32, 64, 2, 8, 1),)
_HALF_TILES = (Tile(128, 64, 64, 3, 2, 2), Tile(64, 32, 128, 3, 2, 1, 4), Tile(32, 32, 128, 3, 1, 1, 4))


@dataclass(frozen=True)
class Shape:
    """A convolution as a matrix product.

    Attributes:
        rows: output pixels of the whole batch.
        columns: output channels, padded.
        depth: bytes of the inner dimension.
        half: whether operands are float16.
        unit: bytes copied at a time.
        units: of them in each pixel.
        kernel_height: in pixels.
        kernel_width: in pixels.
        stride: in pixels.
        height: of the output.
        width: of the output.
        form: one of `parameters.INT8`, ...: how the result is stored.
        plain: whether zero points are 0 and the activation has no limits.
    """

    rows: int
    columns: int
    depth: int
    half: bool
    unit: int
    units: int
    kernel_height: int
    kernel_width: int
    stride: int
    height: int
    width: int
    form: int = 0
    plain: bool = True

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles that can compute it and may be the fastest."""
        if self.unit != 16:
            return _INPUT_TILES
        if self.half:
            return _HALF_TILES
        if self.rows >= _MANY_ROWS:
            found, patches = [*_LARGE, *_MEDIUM[:3]], [*_PATCH_LARGE, *_PATCH_SMALL[:1]]
        else:
            found = [*_MEDIUM, *_SMALL] if self.rows < _FEW_ROWS else [*_LARGE[:5], *_MEDIUM, *_SMALL]
            patches = [*_PATCH_LARGE[:1], *_PATCH_SMALL]
        if self.kernel_height == self.kernel_width > 1:
            found += patches
        return tuple(tile for tile in found if tile.shared(self) <= _MOST_SHARED and self._wastes_little(tile))

    def _wastes_little(self, tile: Tile) -> bool:
        return tile.columns < 2 * self.columns or tile.columns == 32
