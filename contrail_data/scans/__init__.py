"""Satellite files to calibrated scans, and tiles cut out of them.

`abi_files` finds GOES-R ABI files by name or contents and groups them into scans, and `abi` reads them; `satpy_files`
and `satpy_reader` do so for other imagers through satpy. Both produce a scene: an `xarray.Dataset` of brightness
temperatures on the satellite's grid (`scene`), whose pixels are read on demand. `listing` gives scans of all imagers
one type, `Scan`, and finds the scans for the frames of a sample; `find` refuses places without scans before pixels are
read. `tiles` cuts tiles out of a scene.

Data passes from files through a scene to tiles; `contrail_data.sources.scans` makes samples of them.
"""
