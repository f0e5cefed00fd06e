"""Facts about the machine at hand. Facts never judge."""

from deployer.host.base import Fact as Fact
from deployer.host.base import Questions as Questions
from deployer.host.base import Unknown as Unknown
from deployer.host.base import from_json as from_json
from deployer.host.base import to_json as to_json
from deployer.host.disk import Disk as Disk
from deployer.host.driver import Driver as Driver
from deployer.host.gpu import Gpu as Gpu
from deployer.host.memory import Memory as Memory
from deployer.host.memory import bandwidth as bandwidth
from deployer.host.network import Answer as Answer
from deployer.host.network import Port as Port
from deployer.host.network import port_owner as port_owner
from deployer.host.probe import Host as Host
from deployer.host.probe import load as load
from deployer.host.probe import probe as probe
from deployer.host.runtime import ContainerRuntime as ContainerRuntime
from deployer.host.system import Cpu as Cpu
from deployer.host.system import System as System
