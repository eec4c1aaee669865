"""Makes `python -m contrail_data` the same as the command `contrail-data`."""

from contrail_data.cli.main import main

if __name__ == "__main__":
    main()
