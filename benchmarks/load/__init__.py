"""The load: requests as bytes, and the process that sends them."""
