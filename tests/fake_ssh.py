"""A fake `ssh`: forwards sockets within this machine, as `ssh -L` and `-R` do, and runs commands
locally. Like sshd, it leaves the socket of a -R behind and refuses one that exists."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def listen(near: str, far: str) -> None:
    """`near` and `far` are paths, or host:port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if far.startswith("/"):
                other = await asyncio.open_unix_connection(far)
            else:
                host, port = far.rsplit(":", 1)
                other = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(carry(reader, other[1]), carry(other[0], writer))

    if near.startswith("/"):
        await asyncio.start_unix_server(accept, near)
    else:
        host, port = near.rsplit(":", 1)
        await asyncio.start_server(accept, host, int(port))


async def forward(pairs: list[tuple[str, str]]) -> None:
    for near, far in pairs:
        await listen(near, far)
    await asyncio.Event().wait()


def split(pair: str) -> tuple[str, str]:
    """`/a:/b`, or `127.0.0.1:1:127.0.0.1:2`."""
    parts = pair.split(":")
    return ":".join(parts[: len(parts) // 2]), ":".join(parts[len(parts) // 2 :])


def main() -> None:
    words, pairs, host = sys.argv[1:], [], ""
    while words:
        word = words.pop(0)
        if word in ("-L", "-R"):
            near, far = split(words.pop(0))
            if word == "-R" and os.path.exists(near):
                sys.exit("remote port forwarding failed for listen path " + near)
            if word == "-L" and near.startswith("/"):
                Path(near).unlink(missing_ok=True)
            pairs.append((near, far))
        elif not word.startswith("-"):
            host = word
            break
    if host == "nowhere":
        print("ssh: Could not resolve hostname nowhere", file=sys.stderr)
        sys.exit(255)
    if words:
        sys.exit(subprocess.run(["sh", "-c", " ".join(words)]).returncode)
    asyncio.run(forward(pairs))


if __name__ == "__main__":
    main()
