"""Bits of a parameter set of H.264 and H.265, most significant first."""

from __future__ import annotations


class BitReader:
    """Reads numbers from a NAL unit, without the bytes that only keep start codes apart (emulation prevention)."""

    def __init__(self, unit: bytes) -> None:
        payload = unit.replace(b"\x00\x00\x03", b"\x00\x00")
        self._value, self._left = int.from_bytes(payload, "big"), 8 * len(payload)

    def read(self, bits: int) -> int:
        """Returns the next bits as an unsigned number.

        Raises:
            ValueError: behind the end.
        """
        if bits > self._left:
            raise ValueError("a parameter set ends early")
        self._left -= bits
        return self._value >> self._left & ((1 << bits) - 1)

    def flag(self) -> bool:
        """Returns the next bit."""
        return bool(self.read(1))

    def ue(self) -> int:
        """Returns the next unsigned Exp-Golomb number (ITU-T H.264, 9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def se(self) -> int:
        """Returns the next signed Exp-Golomb number."""
        number = self.ue()
        return (number + 1) // 2 if number % 2 else -number // 2
