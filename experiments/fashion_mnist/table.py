"""Prints the results of run.py, from reports/fashion_mnist/results.json.

python -m experiments.fashion_mnist.table [results.json]
"""

import sys

from experiments.fashion_mnist.run import STUDY

if __name__ == "__main__":
    STUDY.show(sys.argv[1:])
