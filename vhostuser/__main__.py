"""`python -m vhostuser` is the same as `vhostuser`."""

from vhostuser.cli.main import main

raise SystemExit(main())
