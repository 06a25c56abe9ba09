"""`python -m rusmes` is `rusmes`."""

from rusmes.cli.entry import main

if __name__ == "__main__":
    main()
