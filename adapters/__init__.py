"""The ingest side: one module per exchange, on a small base."""
