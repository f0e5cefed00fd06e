"""From a profile and a host to a deployment: what was chosen and why, the steps as data, their effects."""

from deployer.plan.acceptance import Measured as Measured
from deployer.plan.acceptance import ask as ask
from deployer.plan.acceptance import events as events
from deployer.plan.acceptance import piece_of as piece_of
from deployer.plan.apply import World as World
from deployer.plan.apply import already_up as already_up
from deployer.plan.apply import apply as apply
from deployer.plan.apply import as_json as as_json
from deployer.plan.apply import describe as describe
from deployer.plan.apply import healthy as healthy
from deployer.plan.conversion import Workshop as Workshop
from deployer.plan.conversion import convert as convert
from deployer.plan.conversion import measure as measure
from deployer.plan.record import Record as Record
from deployer.plan.record import forget as forget
from deployer.plan.record import load_record as load_record
from deployer.plan.record import records as records
from deployer.plan.resolve import Choice as Choice
from deployer.plan.resolve import choose_runtime as choose_runtime
from deployer.plan.resolve import rank as rank
from deployer.plan.resolve import resolve as resolve
from deployer.plan.resolve import without_images as without_images
from deployer.plan.steps import Step as Step
from deployer.plan.steps import example as example
from deployer.plan.steps import launch as launch
from deployer.plan.steps import steps as steps
