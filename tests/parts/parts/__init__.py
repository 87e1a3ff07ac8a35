"""What the tests need and pip cannot bring: peers, a guest kernel, and the packages of the host.

Standard library only, because it runs on the system's Python before a virtual environment exists
(`python3 -m parts`, see the Makefile). Nothing here is imported by the product, and only
`parts.require` knows pytest.

Parts are unpacked, never installed, into `.parts/` (or the folder named by VHOSTUSER_PARTS). The
system's package sources, lists and database are read but never changed by them.
"""

__all__: list[str] = []
