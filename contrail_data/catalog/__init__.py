"""Stores and models by name and version, in the team's `data_catalog.yaml`.

`entries` holds what a file says, `file` reads and edits it, `index` finds it, `metadata` describes a store for it.
`stores` finds stores by name and reads what they state, without xarray; `catalog` opens, adds and removes them,
`models` does so with model folders, and `check` compares entries with what they lead to. `decoded` opens stores as
notebooks and scripts see them. Names come in; paths, URLs and open stores go out.
"""
