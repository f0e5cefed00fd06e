"""What works with what: CUDA, drivers, GPUs, cuDNN, torch and images. Data with sources, and pure answers."""

from deployer.compat.answer import NO_DRIVER as NO_DRIVER
from deployer.compat.answer import judge as judge
from deployer.compat.cards import Card as Card
from deployer.compat.cards import Device as Device
from deployer.compat.cards import card as card
from deployer.compat.cards import find as find
from deployer.compat.cards import models as models
from deployer.compat.cards import near as near
from deployer.compat.demand import Compat as Compat
from deployer.compat.demand import Demand as Demand
from deployer.compat.demand import demand_of as demand_of
from deployer.compat.demand import demand_of_condition as demand_of_condition
from deployer.compat.demand import demand_of_cuda as demand_of_cuda
from deployer.compat.demand import demand_of_environment as demand_of_environment
from deployer.compat.demand import demand_of_official as demand_of_official
from deployer.compat.demand import demands_of_torch as demands_of_torch
from deployer.compat.tables import complete as complete
from deployer.compat.tables import cuda_driver as cuda_driver
from deployer.compat.tables import family_driver as family_driver
from deployer.compat.tables import newest_cuda as newest_cuda
from deployer.compat.tables import rows as rows
from deployer.compat.tables import runs_on as runs_on
from deployer.compat.verdict import Injection as Injection
from deployer.compat.verdict import Kind as Kind
from deployer.compat.verdict import Verdict as Verdict
