"""From probability maps to single contrails, without torch.

`cleaning` turns probabilities into a mask: a threshold, then optional steps that remove or add regions. `instances`
turns a mask into the single contrails of an image, each with a number, a centre line and measures in pixels: either its
connected regions, or lines that are separated where they cross, touch or are broken (`separation`, by the pieces of
`skeleton` that `linking` joins); `centre_line` finds the line along the middle of a region, by its `pixel_graph`;
`axes` finds the direction in which points extend, `regions` lists pixels, and `polyline` measures lines. `shapes` takes
contrails to the Earth, with an outline, length, width and bearing, and to GeoJSON features. `tracks` joins the
contrails of consecutive images to tracks, and `motion` gives the tracks' speed, heading and growth on the Earth.
The room knows fixed grids, but neither models nor files.
"""
