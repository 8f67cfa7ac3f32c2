"""A procedural fashion catalogue: flat illustrations of products whose variants differ in colour, print and fabric.

It has the task of real packshots, "the same style in another colour", without a photo: a style is its silhouette and its
details; colour, print, fabric, pose, light and ground change from image to image and say nothing about it.
"""

from fashion_dml.data.sources.generated.catalogue import CatalogueRow, catalogue
from fashion_dml.data.sources.generated.picture import render

__all__ = ["CatalogueRow", "catalogue", "render"]
