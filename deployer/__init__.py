"""deployer: from a bare machine to a private, verified model that answers."""

from deployer._version import __version__ as __version__
