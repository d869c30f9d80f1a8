"""The papers: one folder each, the arithmetic they share, and nothing of Ray."""
