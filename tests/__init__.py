"""Tests; the folders mirror the packages. Helpers are imported as ``tests.<module>``."""
