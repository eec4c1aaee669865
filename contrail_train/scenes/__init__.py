"""Whole satellite scans through a predictor.

`tiling` decides which tiles cover a scan and blends predicted tiles back onto the satellite's grid, `predict` reads the
tiles of scans, predicts them and returns a scene, and `files` writes a scene as NetCDF, zarr, GeoTIFF, GeoJSON, PNG or
GIF. `request` does all of it for the scans that a path or an archive names.
"""
