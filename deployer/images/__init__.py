"""Images: what the recipes say. `images.builder` builds and the rooms beside it prove: import them for that."""

from deployer.images.recipe import Recipe as Recipe
from deployer.images.recipe import Source as Source
from deployer.images.recipe import Variant as Variant
from deployer.images.recipe import load as load
from deployer.images.recipe import names as names
from deployer.images.target import ARCHIVE as ARCHIVE
from deployer.images.target import Target as Target
from deployer.images.target import tag as tag
from deployer.images.target import target as target
