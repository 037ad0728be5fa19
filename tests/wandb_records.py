"""What an offline run of wandb holds."""

import struct
from collections.abc import Iterator
from pathlib import Path


def records(path: Path) -> Iterator[object]:
    """The records of an offline wandb file: LevelDB's log format with a header of 7 bytes.

    wandb's service, a process of its own, writes a block of 32 KiB when it is full and the last one
    when it closes the file, for which `Run.finish` does not wait; the service's end does.
    """
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()
    data, position, buffer = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        buffer += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(buffer)
            buffer = b""
