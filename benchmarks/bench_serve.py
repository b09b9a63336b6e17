"""The server under load with nano: 64 streams at once, beside what the engine does without a server.

    python benchmarks/bench_serve.py [--minutes 5] [--streams 64] [--offline 30] [--record]

`minimax-m1 serve` runs as a user starts it; a client in a process of its own keeps so many streams open, half of them
OpenAI's chat and half native, with prompts of 30 to 2,000 tokens of which no two begin alike, and replies of 32 to 256.
Before and after, the engine answers the same requests in a process without a server. All share the machine's cores, the
client too, so the CPU time of each is told, and tokens per CPU second, which other work there hardly touches. Ends with
1 on an error or where the server's memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
CACHE_GIB = 0.0625  # of keys and values, and of checkpoints: small, so that growth beyond a full cache is seen
WARM = 6.0  # seconds at the start that no rate counts
PATHS = ("/v1/chat/completions", "/v1/minimax-m1/generate")
MARKS = (b'"content":"', b'{"text":"')  # once in each piece of text: a chunk's, an event's
FAILED = (b"event: error", b'data: {"error"')


def question(number: int) -> tuple[str, int]:
    """The text of the request of this number, and how many tokens its reply has."""
    from minimax_m1.tasks.prose import sentence

    rng = random.Random(number)
    words = [sentence(rng) for _ in range(rng.choice([1, 1, 2, 4, 16, 100]))]
    return f"{number}. {' '.join(words)} What is {rng.randint(10, 99)} + {rng.randint(10, 99)}?", rng.randint(32, 256)


def offline(seconds: float, streams: int) -> dict[str, Any]:
    """The engine alone: so many requests at once, a new one for each that ends."""
    from minimax_m1.engine.config import EngineConfig
    from minimax_m1.engine.request import Request
    from minimax_m1.location import locate
    from minimax_m1.serve.loading import load

    room = round(CACHE_GIB * 2**30)
    config = EngineConfig(max_num_seqs=streams, kv_cache_bytes=room, checkpoint_bytes=room)
    loaded = load(locate("nano"), dtype="auto", device="cpu", max_model_len=None, config=config)
    engine, greedy = loaded.engine, replace(loaded.defaults, temperature=0.0, ignore_eos=True)
    number = 0

    def ask() -> None:
        nonlocal number
        text, length = question(number)
        ids = loaded.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        engine.submit(Request(id=str(number), prompt=ids, params=replace(greedy, max_tokens=length), routing=True))
        number += 1

    for _ in range(streams):
        ask()
    tokens, stepping, warming, used = 0, 0.0, 0.0, 0.0
    while stepping < seconds:
        at, cpu_at = time.perf_counter(), time.process_time()
        events = engine.step()
        spent = time.perf_counter() - at  # encoding is the server's work, so it does not count here
        if warming < WARM:
            warming += spent
        else:
            stepping += spent
            used += time.process_time() - cpu_at
            tokens += sum(event.token_id is not None for event in events)
        for event in events:
            if event.finish is not None:
                ask()
    return {"tokens_per_second": tokens / stepping, "tokens_per_cpu_second": tokens / used}


class Stream(asyncio.Protocol):
    """One request on a connection of its own, read as cheaply as can be: arrivals are timed, pieces of text counted."""

    def __init__(self, asked: bytes, chat: bool) -> None:
        self._asked = asked
        self._mark = MARKS[not chat]
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.arrivals: list[tuple[float, int]] = []  # when, how many pieces of text
        self.said = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.began = time.perf_counter()
        transport.write(self._asked)

    def data_received(self, data: bytes) -> None:
        self.said += data
        if count := data.count(self._mark):
            self.arrivals.append((time.perf_counter(), count))

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)

    def tokens(self) -> int:
        """How many the usage at the end says; 0 where the stream broke off or failed."""
        tail = bytes(self.said[-8192:])
        if not self.said.startswith(b"HTTP/1.1 200") or any(word in self.said for word in FAILED):
            return 0
        name = b'"completion_tokens":' if self._mark is MARKS[0] else b'"output_tokens":'
        _, found, rest = tail.rpartition(name)
        return int(rest.partition(b",")[0]) if found and tail.endswith(b"0\r\n\r\n") else 0


async def client(port: int, seconds: float, streams: int) -> dict[str, Any]:
    """Keeps so many streams open for so long; the times of all of them."""
    loop, number = asyncio.get_running_loop(), 0
    first: list[float] = []
    gaps: list[float] = []
    failed: list[str] = []
    began = time.perf_counter()
    warm, end = began + WARM, began + WARM + seconds
    pieces = told = tokens = 0  # pieces in the time that counts; of the streams that ended all pieces, and all tokens

    async def one() -> None:
        nonlocal number, pieces, told, tokens
        while time.perf_counter() < end:
            text, length = question(number)
            chat = number % 2 == 0
            number += 1
            body: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "stream": True}
            if chat:
                body |= {"messages": [{"role": "user", "content": text}], "max_tokens": length}
                body["stream_options"] = {"include_usage": True}
            else:
                body |= {"input": text, "max_output_tokens": length}
            data = json.dumps(body).encode()
            head = f"POST {PATHS[not chat]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}"
            asked = f"{head}\r\n\r\n".encode() + data
            _, stream = await loop.create_connection(partial(Stream, asked, chat), "127.0.0.1", port)
            await stream.ended
            times = [at for at, _ in stream.arrivals]
            pieces += sum(count for at, count in stream.arrivals if warm <= at < end)
            if (made := stream.tokens()) != length:
                failed.append(bytes(stream.said[-300:]).decode("utf-8", "replace"))
                continue
            told += sum(count for _, count in stream.arrivals)
            tokens += made
            if stream.began >= warm and times:
                first.append(times[0] - stream.began)
            gaps.extend(b - a for a, b in itertools.pairwise(times) if warm <= a < end)

    await asyncio.gather(*(one() for _ in range(streams)))
    return {
        "requests": number,
        "errors": failed[:3],
        "failed": len(failed),
        "tokens": tokens,
        "tokens_per_second": pieces / seconds * tokens / max(told, 1),
        "first_token_ms": _points(first),
        "between_tokens_ms": _points(gaps),
        "client_cpu": time.process_time() / (time.perf_counter() - began),
    }


def _points(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": 1000 * cuts[49], "p90": 1000 * cuts[89], "p99": 1000 * cuts[98], "max": 1000 * max(seconds)}


class Watch(threading.Thread):
    """Reads a process's memory once a second until `stop` is set."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.stop = threading.Event()
        self.memory_mb: list[float] = []

    def run(self) -> None:
        while not self.stop.wait(1):
            status = Path(f"/proc/{self._pid}/status").read_text("ascii")
            [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
            self.memory_mb.append(int(line.split()[1]) / 1024)


def cpu(task: Path) -> float:
    """CPU seconds that a process or thread has used."""
    fields = (task / "stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def served(seconds: float, streams: int) -> dict[str, Any]:
    """Starts the server and the client, and watches both."""
    with tempfile.TemporaryDirectory() as home:
        options = ["--port", "0", "--max-num-seqs", str(streams), "--home", home]
        options += ["--kv-cache-gib", str(CACHE_GIB), "--checkpoint-gib", str(CACHE_GIB)]
        command = [sys.executable, "-m", "minimax_m1", "serve", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                port = line[line.index("http://") :].split()[0].rpartition(":")[2]
                place = Path(f"/proc/{process.pid}")
                main = place / f"task/{process.pid}"  # the event loop's thread
                watch, began, used = Watch(process.pid), time.perf_counter(), (cpu(place), cpu(main))
                watch.start()
                told = part("client", port, seconds, streams)
                spent = time.perf_counter() - began
                watch.stop.set()
                watch.join()
                told["server_cpu"] = (cpu(place) - used[0]) / spent
                told["event_loop_cpu"] = (cpu(main) - used[1]) / spent
                told["tokens_per_cpu_second"] = told.pop("tokens") / (cpu(place) - used[0])
            finally:
                process.terminate()
    return {**told, "memory_mb": watch.memory_mb}


def part(name: str, *arguments: object) -> dict[str, Any]:
    """Runs a part of this file in a process of its own."""
    command = [sys.executable, __file__, "--part", name, *map(str, arguments)]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told


def rounded(value: Any) -> Any:
    """Three digits behind the point are enough."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--offline", type=float, default=30, help="seconds of the engine alone, before and after")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    match args.part:
        case ["offline", seconds, streams]:
            print(json.dumps(offline(float(seconds), int(streams))))
            return
        case ["client", port, seconds, streams]:
            print(json.dumps(asyncio.run(client(int(port), float(seconds), int(streams)))))
            return
    before = part("offline", args.offline, args.streams)
    result = served(60 * args.minutes, args.streams)
    after = part("offline", args.offline, args.streams)
    alone = [each["tokens_per_second"] for each in (before, after)]
    alone_cpu = [each["tokens_per_cpu_second"] for each in (before, after)]
    memory = result.pop("memory_mb")
    third = len(memory) // 3
    flat = max(memory[2 * third :]) <= 1.03 * max(memory[third : 2 * third])
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    report = {
        "benchmark": "serve",
        "command": " ".join(["python", *sys.argv]),
        "streams": args.streams,
        "seconds": 60 * args.minutes,
        **result,
        "offline_tokens_per_second": alone,
        "of_offline": result["tokens_per_second"] / statistics.mean(alone),
        "offline_tokens_per_cpu_second": alone_cpu,
        "of_offline_by_cpu": result["tokens_per_cpu_second"] / statistics.mean(alone_cpu),
        "memory_mb": memory[:: max(1, len(memory) // 20)],
        "memory_is_flat": flat,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": commit.stdout.strip(),
    }
    print(json.dumps(report := rounded(report), ensure_ascii=False))
    if args.record:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
    sys.exit(0 if flat and not result["failed"] else 1)


if __name__ == "__main__":
    main()
