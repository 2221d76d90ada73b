"""Faults while people work, and a checker that holds every answer against the history. See docs/reliability.md."""
