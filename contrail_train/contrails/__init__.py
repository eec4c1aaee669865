"""From probability maps to single contrails, without torch.

`cleaning` turns probabilities into a mask: a threshold, then optional steps that remove or add regions. `shapes` turns
each region of a mask into a contrail with an outline, length, width and bearing, and contrails into GeoJSON features;
`centre_line` finds the line along the middle of a region. The room knows fixed grids, but neither models nor files.
"""
