"""The whole product under random ends, pauses and stalls, and a ledger that says what was owed.

``python -m tests.torture`` (``make torture``) runs it: real ingest, Valkey and web processes, and
clients that keep account of what they were given. Linux only.
"""
