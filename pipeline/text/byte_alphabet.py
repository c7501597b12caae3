"""The alphabet of byte-level BPE: each byte is written as one printable character."""

from __future__ import annotations

import functools


@functools.cache
def byte_of_character() -> dict[str, int]:
    """The byte of each character. Printable Latin-1 bytes are themselves; the 68 others, in order,
    are U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


@functools.cache
def character_of_byte() -> dict[int, str]:
    """The character of each byte: the inverse of `byte_of_character`."""
    return {byte: character for character, byte in byte_of_character().items()}
