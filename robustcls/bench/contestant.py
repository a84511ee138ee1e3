"""One contestant's turn, in a process of its own: `python -m robustcls.bench.contestant TASK.json`, JSON on stdout."""

import json
import sys
from pathlib import Path

import torch

from robustcls.bench import attacking, training
from robustcls.data.images import Images

SUITES = {"train": training.CONTESTANTS, "attack": attacking.CONTESTANTS}


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    content = torch.load(task["images"], weights_only=True)
    images = Images(content["pixels"], content["labels"], tuple(content["classes"]), "bench", flip=False)
    print(json.dumps(SUITES[task["suite"]][task["contestant"]](images, task)))


if __name__ == "__main__":
    main()
