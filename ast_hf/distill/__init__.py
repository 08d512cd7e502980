"""How the embedded trunk `ast-tiny` is made: it learns an ImageNet network's features on drawn pictures."""
