"""InfraKit's protocol: JSON-RPC over HTTP on unix sockets. Only this package has names from the wire."""
