"""A hand-written catalog whose layout an edit must not change."""

from __future__ import annotations

# Layout that is lost when a tool rewrites YAML: wrapped text, alignment, odd indents, quotes, comments everywhere.
ODD = """---
# head
metadata:
  version: 1

sources:
    # the real one
    ash:
        driver:   zarr      # aligned
        description: Records of the
          whole year, wrapped by hand
        args: { urlpath: "{{ CATALOG_DIR }}/ash.zarr" }
        metadata: {composite: ash,
                   kind: samples}

    # next
    'other':
        driver: zarr
        args:
          urlpath: 'b.zarr'
        description: |
          literal
          # text, no comment
    # on others

# tail
"""
