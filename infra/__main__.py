"""`python -m infra` is `freshet`."""

from infra.cli import main

if __name__ == "__main__":
    main()
