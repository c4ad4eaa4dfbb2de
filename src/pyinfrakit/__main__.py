"""`python -m pyinfrakit` is `infrakit-instance`."""

from pyinfrakit.cli import main

if __name__ == "__main__":
    main()
