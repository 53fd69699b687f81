"""Tests of the SDK import it before gRPC, as users do: it turns off the fork handlers that crash forked children."""

import broadaxe  # noqa: F401 - see above
