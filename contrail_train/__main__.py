"""`python -m contrail_train` is the same as the command `contrail-train`; torchrun uses it."""

from contrail_train.cli.main import main

main()
