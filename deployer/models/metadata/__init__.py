"""What a model is made of, read from headers alone: `describe` for files here, `remote.describe` for the Hub's."""

from deployer.models.metadata.reader import describe as describe
from deployer.models.metadata.values import GROUPS as GROUPS
from deployer.models.metadata.values import Description as Description
from deployer.models.metadata.values import Layer as Layer
from deployer.models.metadata.values import Tensor as Tensor
from deployer.models.metadata.values import compact as compact
