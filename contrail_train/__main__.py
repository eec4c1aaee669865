"""`python -m contrail_train`: the same as the command `contrail-train`."""

from contrail_train.cli.main import main

main()
