"""Stability and sanity of attribution maps: as `robustcls explain` records them."""

from robustcls.results.attribution import Explanations

RECORD = Explanations
