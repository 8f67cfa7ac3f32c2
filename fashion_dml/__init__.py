"""Large-scale metric learning and visual search for fashion, on Ray."""

__version__ = "0.1.0"
