"""Whole satellite scans through a predictor.

`tiling` decides which tiles cover a scan and blends predicted tiles back onto the satellite's grid, `predict` reads the
tiles of the scans that a path or an archive names and predicts them as a scene, and `files` writes a scene: `cf` as
NetCDF, `geozarr` as zarr, `geotiff` as GeoTIFF, `pictures` as PNG or GIF (`traces` are the tracks in them), and
`vectors` as GeoJSON, GeoParquet or a table. `contrails` finds the single contrails of a scene, and their tracks.
`mask_files` reads files of masks, ours and others', and `compare` counts where two of them agree.
"""
