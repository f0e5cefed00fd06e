"""Profiles: what is wanted, as values; read from YAML with every mistake reported at once."""

from deployer.profile.load import find as find
from deployer.profile.load import load as load
from deployer.profile.load import shipped as shipped
from deployer.profile.schema import json_schema as json_schema
from deployer.profile.values import DiskNeed as DiskNeed
from deployer.profile.values import Gateway as Gateway
from deployer.profile.values import GpuNeed as GpuNeed
from deployer.profile.values import Limits as Limits
from deployer.profile.values import ModelChoice as ModelChoice
from deployer.profile.values import ModelFile as ModelFile
from deployer.profile.values import Profile as Profile
from deployer.profile.values import Remote as Remote
from deployer.profile.values import Requirements as Requirements
from deployer.profile.values import Safety as Safety
from deployer.profile.values import Serving as Serving
