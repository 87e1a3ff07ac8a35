"""Commands of the `vhostuser` program that concern accelerators."""
