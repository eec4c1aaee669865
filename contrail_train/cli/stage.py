"""`python -m contrail_train.cli.stage PARENT run ...`: a stage of a pipeline as a process that ends with its parent."""

import os
import sys

from contrail_data.process import end_with_parent
from contrail_train.cli.main import main

if __name__ == "__main__":
    end_with_parent()
    if os.getppid() == int(sys.argv.pop(1)):  # else it has ended already
        main()
