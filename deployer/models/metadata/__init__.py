"""What a model is made of, read from headers alone: `describe` for files here, `remote.describe` for the Hub's."""

from deployer.description import GROUPS as GROUPS
from deployer.description import Description as Description
from deployer.description import Layer as Layer
from deployer.description import Tensor as Tensor
from deployer.description import compact as compact
from deployer.models.metadata.reader import describe as describe
