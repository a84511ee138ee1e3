"""Prints the results of run.py, from reports/card_proxy/results.json.

python -m experiments.card_proxy.table [results.json]
"""

import sys

from experiments.card_proxy.run import STUDY

if __name__ == "__main__":
    STUDY.show(sys.argv[1:])
