"""Places on the Earth, and how satellites see them.

`fixed_grid` converts between a geostationary imager's scan angles and latitude and longitude, `geometry` computes
footprints of tiles and the angles of sun and satellite, and `coastline` holds coastlines for maps. Everything here is
arithmetic on numbers and arrays; other rooms call it and nothing is read but the coastlines.
"""
