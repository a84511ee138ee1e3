"""Contests between robustcls and other libraries on this machine; README.md explains how to run them."""
