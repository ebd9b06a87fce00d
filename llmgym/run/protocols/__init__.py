"""Protocols of evaluation: GLAM's, BALROG's and our own, each a list of tasks and a way to count."""
