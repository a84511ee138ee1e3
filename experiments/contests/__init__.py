"""Contests of robustcls with other libraries on this machine; README.md says how to run them."""
