"""`python -m bimt.command`: the command where no script is installed."""

from . import main

if __name__ == "__main__":
    main()
