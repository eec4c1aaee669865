"""Stores by name and version, in the team's `data_catalog.yaml`.

`entries` holds what a file says, `file` reads and edits it, `metadata` describes a store for it, and `catalog` finds,
opens, checks, adds and removes stores by name. `decoded` opens them as notebooks and scripts see them. Names come in;
paths, URLs and open stores go out.
"""
