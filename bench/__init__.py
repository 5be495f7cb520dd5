"""Benches: units of real work over real processes and sockets; figures are kept in RESULTS.md."""
