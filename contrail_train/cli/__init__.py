"""The `contrail-train` command line: one module per group of commands.

A command parses its options, calls the library and prints what it returns. `main` assembles the groups; exit codes and
common options are in `contrail_data.cli.common`, and `common` adds those that only training and scoring need.
"""
