"""The interpreter executes any module; it is the oracle of every backend."""
