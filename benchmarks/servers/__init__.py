"""The other side of a row: clients that drive a measured server, servers for measured clients."""
