"""Parametric families of shapes: meshes, captions, class names, and measurements on geometry."""
