"""Images: what the recipes say. `images.base` finds the OS base and `images.builder` builds: import them for that."""

from deployer.images.recipe import ARCHIVE as ARCHIVE
from deployer.images.recipe import DEFAULT_BASE as DEFAULT_BASE
from deployer.images.recipe import Recipe as Recipe
from deployer.images.recipe import Source as Source
from deployer.images.recipe import Variant as Variant
from deployer.images.recipe import load as load
from deployer.images.recipe import names as names
from deployer.images.recipe import tag as tag
from deployer.images.recipe import tags as tags
