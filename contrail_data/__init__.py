"""Raw GOES bands to ash-RGB zarr stores that a team shares."""

__version__ = "0.1.0"
