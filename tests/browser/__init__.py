"""Tests that drive a headless Chromium; skipped, with the reason, where there is none."""
