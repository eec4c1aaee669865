"""Whole satellite scans through a predictor.

`frames` finds the scans that a prediction needs, `tiling` decides which tiles cover a scan and blends predicted tiles
back onto the satellite's grid, and `predict` predicts one scan. `series` predicts all scans that a path or an archive
names, and `files` writes them: `cf` as NetCDF, `geozarr` as zarr, `geotiff` as GeoTIFF, `pictures` as PNG or GIF
(`traces` are the tracks in them), and `vectors` as GeoJSON, GeoParquet or a table. `contrails` finds the single
contrails of a scene, and their tracks. `compare` counts where two files of masks agree.
"""
