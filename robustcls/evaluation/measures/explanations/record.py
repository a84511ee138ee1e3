"""Stability and sanity of attribution maps, in the same form as `robustcls explain` records them."""

from robustcls.results.attribution import Explanations

RECORD = Explanations
