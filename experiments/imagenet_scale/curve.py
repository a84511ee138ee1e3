"""Prints robust accuracy by radius, from an evaluation with a security curve.

python experiments/imagenet_scale/curve.py EVALUATION.json
"""

import sys

from robustcls.cli.console import markdown
from robustcls.results.records import Evaluation

if __name__ == "__main__":
    found = Evaluation.load(sys.argv[1])
    rows = [
        [f"{255 * point.eps:.2g}", f"{point.robust.accuracy:.1%} [{low:.1%}, {high:.1%}]"]
        for point in found.curve or ()
        for low, high in [point.robust.ci95]
    ]
    print(markdown(["eps in grey levels", f"Robust accuracy, n = {found.robust.total}"], rows))
