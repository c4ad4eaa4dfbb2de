"""What the provider ``process`` is made of: /proc, an instance's folder, how a process begins, and how it ends."""
