"""Peak memory of an evaluation by the number of its images, of 224 pixels.

python -m experiments.imagenet_scale.measure OUT.json 200 1000 5000            # measures, each in a process of its own
python -m experiments.imagenet_scale.measure OUT.json --in-memory 200 1000     # the same with all images as float32
python -m experiments.imagenet_scale.measure OUT.json --attack fgsm 5000 50000   # with one attack, which takes minutes
python -m experiments.imagenet_scale.measure OUT.json                          # prints the table

`fast`, or one attack, on generated images and a small network at linf 0.006. The journal is that of `--resume`:
batches of the chunk that is being attacked, and what is left of the chunks before. Lines are added to those of OUT.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from robustcls.cli.console import markdown

HERE = "experiments.imagenet_scale.generated"
EPS = "0.006"
COMMAND = """
import sys
from robustcls.runtime import stored
if sys.argv.pop(1) == "True":
    stored.LARGE = stored.MAPPED = 1 << 60
from robustcls.__main__ import main
sys.exit(main())
"""


def measure(n: int, in_memory: bool, attack: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "evaluation.json")
        arguments = ["attack", "--model", f"{HERE}:net", "--data", f"{HERE}:images(n={n})", "-n", "all", "--eps", EPS]
        arguments += ["--attack", attack] if attack else []
        command = [sys.executable, "-c", COMMAND, str(in_memory), *arguments, "--quiet", "--out", str(out)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        journal, on_disk = out.with_name(f"{out.name}.partial"), 0
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            on_disk = max(on_disk, sum(_size(file) for file in journal.glob("*")))
            time.sleep(1)
        if status:
            raise SystemExit(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
        found = json.loads(out.read_text())
    return {
        "n": n, "attack": attack or "fast", "in_memory": in_memory, "peak_mb": round(usage.ru_maxrss / 1024),
        "pixels_mb": round(n * 3 * 224 * 224 / 2**20), "journal_mb": round(on_disk / 2**20),
        "robust": found["robust"]["correct"], "passes": sum(one["forwards"] + one["backwards"] for one in found["attacks"]),
    }  # fmt: skip


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # replaced in between
        return 0


def table(records: list[dict]) -> str:
    head = ["Images", "Attacks", "As", "8-bit pixels, MB", "Peak, MB", "Journal, MB", "Robust", "Passes"]
    rows = [
        [f"{one['n']:,}", one["attack"], "float32" if one["in_memory"] else "8 bits", f"{one['pixels_mb']:,}",
         f"{one['peak_mb']:,}", f"{one['journal_mb']:,}", str(one["robust"]), f"{one['passes']:,}"]
        for one in sorted(records, key=lambda one: (one["in_memory"], one["attack"], one["n"]))
    ]  # fmt: skip
    return markdown(head, rows)


if __name__ == "__main__":
    file, *rest = sys.argv[1:]
    records = json.loads(Path(file).read_text()) if Path(file).exists() else []
    in_memory = "--in-memory" in rest
    attack = rest[rest.index("--attack") + 1] if "--attack" in rest else ""
    for one in rest:
        if one.isdecimal():
            key = (int(one), in_memory, attack or "fast")
            records = [record for record in records if (record["n"], record["in_memory"], record["attack"]) != key]
            records.append(measure(int(one), in_memory, attack))
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(json.dumps(records, indent=1) + "\n")
    print(table(records))
