"""The group controller: groups of instances, kept as their specs describe them."""
