"""The bus: how entries get from the publishers to every web process."""
