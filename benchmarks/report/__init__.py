"""Comparisons of rates, and the tables that show them."""
