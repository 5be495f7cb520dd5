"""One package an exchange: how each speaks (``docs/new-exchange.md``). All of it pure.

The package itself declares ``ENTRIES``, which the registry finds; ``adapter`` turns frames into
events, ``frames`` are its messages, ``listing`` its instruments, ``venue`` its side of the protocol
for the fake exchange that serves a tape.
"""
