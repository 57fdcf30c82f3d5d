"""Runs a program and measures its time and its peak memory."""

import os
import statistics
import subprocess
import time
from dataclasses import dataclass, field


def sizes(name, default):
    """Reads a size from a variable; 0 counts as not given."""
    return int(os.environ.get(name) or 0) or default


def step(text):
    print(f"# {text}", flush=True)


def size_of(path):
    """Returns the bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@dataclass
class Run:
    seconds: float
    peak_bytes: int
    output: str


def start():
    """Returns the start time of a measurement, after a sync: pages that others left dirty must not count."""
    os.sync()
    return time.monotonic()


def run(command, environment=None):
    """Runs a command. Its peak memory is VmHWM of the process itself, as the kernel reports it at its end."""
    started = start()
    environment = {**os.environ, **(environment or {})}
    child = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd="/"
    )
    peak = 0
    while True:
        peak = max(peak, high_water(child.pid))
        try:
            output, errors = child.communicate(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            pass
    seconds = time.monotonic() - started
    if child.returncode != 0:
        raise SystemExit(f"bench: {command[0]} failed ({child.returncode}): {errors.decode()[-2000:]}")
    return Run(seconds, peak, output.decode(errors="replace"))


def high_water(pid):
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


@dataclass
class Peak:
    """Returns the peak memory of a running process; it must be read before the process ends."""

    pid: int

    def look(self):
        return high_water(self.pid)


@dataclass
class Series:
    """The runs of one program, interleaved with the runs of the program that it is compared with."""

    name: str
    runs: list = field(default_factory=list)

    def add(self, result):
        self.runs.append(result)
        print(f"  {self.name}: {result.seconds:.2f} s, {result.peak_bytes >> 20} MiB", flush=True)
        return result

    @property
    def seconds(self):
        return [run.seconds for run in self.runs]

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def peak(self):
        return max(run.peak_bytes for run in self.runs)


def ratio(one, other):
    """Returns the median of the quotients of neighbouring runs, in which passing load on the machine cancels out."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds))
