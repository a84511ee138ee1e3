"""Measures the peak memory of an evaluation by the number of images, of 224 pixels.

python -m experiments.imagenet_scale.measure OUT.json 200 1000 5000            # measures, each in its own process
python -m experiments.imagenet_scale.measure OUT.json --in-memory 200 1000     # the same with all images as float32
python -m experiments.imagenet_scale.measure OUT.json --eps 0.02 5000 50000    # where `fast` breaks most samples at once
python -m experiments.imagenet_scale.measure OUT.json                          # prints the table

Runs `fast`, or one attack, on generated images and a small network at linf 0.006, or `--eps`. Results are added to OUT.json.

Resident memory at the peak is the process's own memory plus pages of files, which the system takes back when it needs them: the
file of the 8-bit pixels, and libraries. On disk are the file of the pixels, the file of the adversarial images that are kept,
and the journal of `--resume`: the batches of the current chunk, and the results of earlier chunks.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from robustcls.cli.console import markdown

HERE = "experiments.imagenet_scale.generated"
EPS = "0.006"
KEY = ("n", "attack", "eps", "in_memory")
SOURCES = ("own", "mapped", "files", "journal")  # the largest observed value of each, in bytes
COMMAND = """
import sys
from robustcls.runtime import stored
if sys.argv.pop(1) == "True":
    stored.LARGE = stored.MAPPED = 1 << 60
from robustcls.__main__ import main
sys.exit(main())
"""


def measure(n: int, in_memory: bool, attack: str, eps: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "evaluation.json")
        arguments = ["attack", "--model", f"{HERE}:net", "--data", f"{HERE}:images(n={n})", "-n", "all", "--eps", eps]
        arguments += ["--attack", attack] if attack else []
        command = [sys.executable, "-c", COMMAND, str(in_memory), *arguments, "--quiet", "--out", str(out)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        journal, largest = out.with_name(f"{out.name}.partial"), dict.fromkeys(SOURCES, 0)
        while True:
            now = _memory(child.pid) | {"files": _unnamed(child.pid), "journal": sum(map(_size, journal.glob("*")))}
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            largest = {name: max(largest[name], now.get(name, 0)) for name in SOURCES}
            time.sleep(0.25)
        if status:
            raise SystemExit(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
        found = json.loads(out.read_text())
    return {
        "n": n, "attack": attack or "fast", "eps": eps, "in_memory": in_memory, "peak_mb": round(usage.ru_maxrss / 1024),
        **{f"{name}_mb": round(size / 2**20) for name, size in largest.items()},
        "pixels_mb": round(n * 3 * 224 * 224 / 2**20), "version": found.get("suites", {}).get("fast"),
        "robust": found["robust"]["correct"], "passes": sum(one["forwards"] + one["backwards"] for one in found["attacks"]),
    }  # fmt: skip


def _memory(pid: int) -> dict[str, int]:
    """Return the resident bytes of a process: its own memory, and pages of files."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return {}
    names = {"own": "RssAnon", "mapped": "RssFile"}
    return {name: 1024 * int(lines.get(field, "0 kB").split()[0]) for name, field in names.items()}


def _unnamed(pid: int) -> int:
    """Return the bytes on disk of the unnamed files (open and deleted) of a process."""
    total = 0
    try:
        for one in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(one).endswith(" (deleted)"):
                total += 512 * os.stat(one).st_blocks
    except OSError:  # the process has just ended
        return 0
    return total


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # replaced in between
        return 0


def table(records: list[dict]) -> str:
    head = [
        "Images", "Attacks", "eps", "As", "8-bit pixels, MB", "Peak, MB", "own, MB", "of files, MB", "Unnamed files, MB",
        "Journal, MB", "Robust", "Passes",
    ]  # fmt: skip
    rows = [
        [f"{one['n']:,}", one["attack"], one["eps"], "float32" if one["in_memory"] else "8 bits", f"{one['pixels_mb']:,}",
         f"{one['peak_mb']:,}", f"{one['own_mb']:,}", f"{one['mapped_mb']:,}", f"{one['files_mb']:,}",
         f"{one['journal_mb']:,}", str(one["robust"]), f"{one['passes']:,}"]
        for one in sorted(records, key=lambda one: (one["in_memory"], one["attack"], one["eps"], one["n"]))
    ]  # fmt: skip
    return markdown(head, rows)


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("counts", type=int, nargs="*")
    parser.add_argument("--attack", default="")
    parser.add_argument("--eps", default=EPS)
    parser.add_argument("--in-memory", action="store_true")
    given = parser.parse_intermixed_args()
    records = json.loads(given.file.read_text()) if given.file.exists() else []
    for count in given.counts:
        new = measure(count, given.in_memory, given.attack, given.eps)
        records = [one for one in records if any(one[name] != new[name] for name in KEY)] + [new]
        given.file.parent.mkdir(parents=True, exist_ok=True)
        given.file.write_text(json.dumps(records, indent=1) + "\n")
    print(table(records))
