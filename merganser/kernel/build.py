"""``make kernel``: compile the ``.zig`` files here into ``kernel.wasm``, which says of which sources it was made."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = (
    "-target", "wasm32-freestanding", "-mcpu=generic+simd128+bulk_memory", "-OReleaseFast", "-fstrip", "-fno-entry", "-rdynamic",
    "--export=__heap_base",
)  # fmt: skip


def signature() -> bytes:
    """A custom section of WebAssembly with a hash of the sources."""
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("*.zig")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    name, value = b"sources", digest.hexdigest().encode()
    section = bytes([len(name)]) + name + value
    return b"\0" + bytes([len(section)]) + section


def main() -> None:
    made = HERE / "kernel.wasm"
    command = [sys.executable, "-m", "ziglang", "build-exe", "kernel.zig", *FLAGS, f"-femit-bin={made.name}"]
    subprocess.run(command, cwd=HERE, check=True)
    made.with_suffix(".wasm.o").unlink(missing_ok=True)
    made.write_bytes(made.read_bytes() + signature())
    made.chmod(0o644)
    print(f"{made.name}: {made.stat().st_size} bytes")


if __name__ == "__main__":
    main()
