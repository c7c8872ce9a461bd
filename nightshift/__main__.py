"""`python -m nightshift COMMAND`: the same as the console script `nightshift COMMAND`."""

from nightshift.commands.main import main

if __name__ == "__main__":
    main()
