"""Folders of images: which of their folders are splits and classes, and how their files become pixels."""
