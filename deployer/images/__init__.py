"""Images: what the recipes say, how they are built, what a built one holds."""

from deployer.images.base import choose as choose
from deployer.images.builder import BuildSettings as BuildSettings
from deployer.images.builder import build as build
from deployer.images.builder import build_command as build_command
from deployer.images.recipe import ARCHIVE as ARCHIVE
from deployer.images.recipe import DEFAULT_BASE as DEFAULT_BASE
from deployer.images.recipe import Recipe as Recipe
from deployer.images.recipe import Source as Source
from deployer.images.recipe import Variant as Variant
from deployer.images.recipe import load as load
from deployer.images.recipe import names as names
from deployer.images.recipe import tag as tag
