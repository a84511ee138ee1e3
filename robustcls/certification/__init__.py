"""Certified lower bounds: bounds.py for plain networks, of which network.py reads the layers (layers.py)."""
