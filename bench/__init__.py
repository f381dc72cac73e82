"""MCR beside its peers: same work, same round, same machine. `make bench`."""
