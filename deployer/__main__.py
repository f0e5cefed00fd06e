"""`python -m deployer` is `deployer`."""

from deployer.cli import main

main()
