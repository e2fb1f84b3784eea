"""The engine room: faster versions of the textbook's ops, each held equal to it by the registry."""
