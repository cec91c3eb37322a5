"""The machinery under the policies: plans and their drivers, leases, signals, keys, codecs."""
