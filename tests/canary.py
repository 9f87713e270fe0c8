"""A secret for leak tests: searches text, files and folders for it in every encoded form."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote, quote_plus

__all__ = ["Canary"]


class Canary:
    """A secret whose characters change under each encoding, so that the encoded forms differ."""

    def __init__(self, value: str = "canärY+7 &s%cr€t/") -> None:
        self.value = value

    def forms(self) -> dict[str, bytes]:
        """Return the secret raw and in each encoding."""
        raw = self.value.encode()
        return {
            "raw": raw,
            "percent-encoded": quote(self.value, safe="").encode(),
            "percent-encoded path": quote(self.value).encode(),
            "form-encoded": quote_plus(self.value).encode(),
            **{f"base64, shifted by {shift}": _inside_base64(raw, shift) for shift in range(3)},
            "hex": raw.hex().encode(),
            "escaped": repr(self.value)[1:-1].encode("unicode_escape"),
        }

    def found_in(self, place: str | bytes | Path) -> list[str]:
        """Return the forms that occur in a text, in bytes, in a file or in any file below a folder."""
        if isinstance(place, Path):
            files = [p for p in place.rglob("*") if p.is_file()] if place.is_dir() else [place]
            return [f"{form} in {path}" for path in files for form in self.found_in(path.read_bytes())]
        data = place.encode() if isinstance(place, str) else place
        return [form for form, needle in self.forms().items() if needle in data]

    def assert_absent(self, *places: str | bytes | Path) -> None:
        leaks = [leak for place in places for leak in self.found_in(place)]
        assert not leaks, f"a secret leaked: {', '.join(leaks)}"


def _inside_base64(raw: bytes, shift: int) -> bytes:
    """Return the part of a secret's base64 that is the same after `shift` bytes (modulo 3) and before any others."""
    encoded = base64.b64encode(b"?" * shift + raw)
    return encoded[(0, 2, 3)[shift] : len(encoded) // 4 * 4 - 4]
