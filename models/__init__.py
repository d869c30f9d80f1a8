"""The papers, one package each, and the layers they share; independent of Ray."""
