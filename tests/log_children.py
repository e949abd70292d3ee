"""What the tests of the prediction log run in processes of their own, which are killed, or have a disk that is full."""

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from ride_duration.errors import DiskFull, LogUnavailable
from ride_duration.ops.answers import Answered, fresh_ride_id
from ride_duration.ops.log_export import export_log
from ride_duration.ops.log_writer import LogWriter
from ride_duration.ops.prediction_log import open_log

RIDE = Answered("ride", datetime(2026, 11, 24, 8, 30, tzinfo=UTC), "green", "booking", "7", "champion", 132, 161, datetime(2026, 11, 24, 3, 30), None, 41.5, 33.0, 52.25)


def ride(number: int, **changes: object) -> Answered:
    return RIDE._replace(ride_id=fresh_ride_id(), answered_at=datetime.now(UTC), minutes=number / 7, **changes)


def write_until_killed(url: str, told: str) -> None:
    """Twelve clients; what they hear is in the log stands in the file `told`, which outlives this process."""
    file = os.open(told, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    async def client(writer: LogWriter) -> None:
        for number in range(10**9):
            [answer] = await writer.write([ride(number)])
            os.write(file, f"{answer.ride_id} {answer.minutes!r}\n".encode())
            if number % 3 == 0:
                await writer.complete(answer.ride_id, number / 3, datetime.now(UTC))
                os.write(file, f"{answer.ride_id} {answer.minutes!r} {number / 3!r}\n".encode())

    async def main() -> None:
        async with LogWriter(open_log(url)) as writer:
            await asyncio.gather(*(client(writer) for _ in range(12)))

    asyncio.run(main())


def open_at_once(url: str, barrier: object, results: object) -> None:
    barrier.wait()
    try:
        with open_log(url) as log:
            results.put(len(log.newest(1)))
    except Exception as error:
        results.put(repr(error))


def answer_the_same(url: str, number: int, barrier: object, results: object) -> None:
    """Every process has another answer to the same two hundred rides, in another order."""

    async def main() -> list[float]:
        async with LogWriter(open_log(url)) as writer:
            mine = [RIDE._replace(ride_id=f"ride {index * (1, 3, 7)[number] % 200}", minutes=float(number), answered_at=datetime.now(UTC)) for index in range(200)]
            parts = [mine[start : start + 5] for start in range(0, 200, 5)]
            answers = [answer for found in await asyncio.gather(*map(writer.write, parts)) for answer in found]
            return [answer.minutes for answer in sorted(answers)]

    barrier.wait()
    results.put(asyncio.run(main()))


def fill_the_disk(disk: Path) -> None:
    """Write until the disk is full, make room, write on; prints what happened."""
    told, said = [], {}
    (disk / "filler").write_bytes(bytes(900_000))

    async def some(writer: LogWriter) -> None:
        told.extend(await writer.write([ride(number) for number in range(100)]))

    async def main() -> None:
        with open_log(str(disk / "log.sqlite")) as log:  # closed, so that SQLite's files beside it are put away on any Python
            async with LogWriter(log, patience=0.4) as writer:
                await until_there_is_room(writer)

    async def until_there_is_room(writer: LogWriter) -> None:
        while "full" not in said:
            try:
                await some(writer)
            except LogUnavailable as error:
                said["full"] = str(error)
        began = time.monotonic()
        said["refused"] = [type(found).__name__ for found in await asyncio.gather(*(some(writer) for _ in range(20)), return_exceptions=True)]
        said["seconds"] = time.monotonic() - began
        (disk / "filler").unlink()
        while time.monotonic() < began + 10:
            try:
                await some(writer)
                break
            except LogUnavailable:
                await asyncio.sleep(0.05)
        said["written again"] = writer.state.trouble is None

    asyncio.run(main())
    with open_log(str(disk / "log.sqlite")) as log:
        said["in the log"] = {ride for frame in log.read(columns=["ride_id"]) for ride in frame["ride_id"]} >= {answer.ride_id for answer in told}
        try:
            with open(disk / "filler", "wb") as filler:
                while True:
                    filler.write(bytes(4096))
                    filler.flush()
        except OSError:
            pass
        try:
            list(export_log(log, disk / "out"))
        except DiskFull as error:
            said["export"] = str(error)
        said["files"] = sorted(path.name for path in disk.rglob("*") if path.is_file() and "sqlite" not in path.name)
    (disk / "filler").unlink(missing_ok=True)
    print(json.dumps({**said, "told": len(told)}))


if __name__ == "__main__":
    fill_the_disk(Path(sys.argv[1]))
