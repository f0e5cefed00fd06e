"""Bytes from elsewhere onto this disk, whole and verified or not at all."""

from deployer.fetch.http import Web as Web
from deployer.fetch.http import download as download
from deployer.fetch.http import free_bytes as free_bytes
