"""The `contrail-train` command line: one module per group of commands.

A command parses its options, calls the library and prints what it returns. `main` assembles the groups; exit codes are
in `contrail_data.errors`, common options in `contrail_data.cli.options`, and `common` adds those that only training and
scoring need. `stage` is how a pipeline starts `run` as a process of its own.
"""
