"""Prints the results of run.py, from reports/fifteen_minutes/results.json.

python -m experiments.fifteen_minutes.table [results.json]
"""

import sys

from experiments.fifteen_minutes.run import STUDY

if __name__ == "__main__":
    STUDY.show(sys.argv[1:])
