"""`python -m pyinfrakit` is `infrakit-instance`."""

from pyinfrakit.cli import run_instance

if __name__ == "__main__":
    run_instance()
