"""How instances live: calls to the provider, jobs, the reconcile loop and its plan."""
