"""The exchanges' side of their protocols, one module each, for the fake that serves a tape."""
