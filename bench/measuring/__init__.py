"""The measurements of docs/benchmarks.md: what is measured is in `rows`, the rest is what that takes."""
