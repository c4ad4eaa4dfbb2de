"""`python -m pyinfrakit` is `infrakit`."""

from pyinfrakit.cli import run

if __name__ == "__main__":
    run()
