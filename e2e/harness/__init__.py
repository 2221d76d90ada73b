"""What the end-to-end tests stand on: an installation, the real clients, and a memory of every secret seen.

Nothing here decides whether the product is right; that is for the tests.
"""
