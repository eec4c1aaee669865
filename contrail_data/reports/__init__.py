"""What a person looks at to judge a store: summaries on the screen, pictures, and self-contained HTML pages.

Data passes one way: an open store is read by `pictures` (single samples) and `selection` (which records to show, and
the votes of their annotators). From these, `preview` makes contact sheets and animations. All pictures, those of scans
included, are drawn by `figures`, their maps by `ground`, and written by `image_files`. `summary` (of `summary_types`)
and `diff` compute typed values that the command line prints as text or JSON. `store_page` and `audit_page` collect
numbers, and charts drawn by `charts` and `globe`; `page` renders them by the templates in `templates/`, which hold the
text. `choices` holds what a user chooses.
"""
