"""The `contrail-data` command line: one module per group of commands.

A command parses its options, calls the library and prints what it returns. `main` assembles the groups, and `common`
holds what they share with `contrail_train.cli`: exit codes, options and printing.
"""
