"""What is measured, a module each: `measure` gives the report."""
